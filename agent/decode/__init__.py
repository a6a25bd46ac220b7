"""Frames to columns, a block at a time with numpy; scapy for the rest, within a CPU budget.

Lives here: one file per layer family and the walk over them. May not live here: I/O, clocks, the uplink, flows.
"""
