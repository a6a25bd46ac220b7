"""Batches on their way to a hub: the link's table (`machine`), the outbox, and two drivers (`link`, `connection`).

May not live here: capture, decoding. Only the drivers look at a clock.
"""
