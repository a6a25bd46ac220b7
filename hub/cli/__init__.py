"""The command `nodetap`: one file per command, loaded when it is called.

May not live here: anything that makes `nodetap --help` slow: import heavy libraries inside commands.
"""
