"""The program that takes summaries from agents, stores them and answers questions.

Lives here: the agents' listener (`ingest`), the store (`store`), questions (`query`), the people's API (`api`) and the
command line (`cli`). May not live here: anything of `agent`, scapy.
"""
