"""Agents as interfaces of Wireshark and tshark, which ask `nodetap-extcap` for them (extcap(4)).

`sentences` are the lines that are answered, pure; `main` is the program, `launcher` puts it where Wireshark looks.
"""
