"""Batches on their way to a hub: the state machine (`machine`, pure), the outbox, the session driver on `websockets`.

May not live here: capture, decoding. Time comes in as an argument everywhere but in the drivers (`session`).
"""
