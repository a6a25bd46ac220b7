"""Figures of nodetap on this machine, beside those of its peers: `make bench`, `make bench ARGS=--help`.

Lives here: what is measured and the capture that it is measured over; `peers/` are the programs that we are compared
with, run by a Python environment of their own (`peers.txt`). May not live here: anything that nodetap needs to run.
"""
