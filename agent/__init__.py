"""The program on every node: captures packets, turns them into summaries, streams them to a hub.

Lives here: sources (`capture`), frames to columns (`decode`, `l7`), flows and batches, the uplink (`uplink`), the
watchdog. May not live here: anything of `hub`, any database. What may use numpy decides nothing about the link, and
what drives the link never looks into a packet.
"""
