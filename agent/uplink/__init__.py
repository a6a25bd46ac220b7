"""Batches on their way to a hub: the state machine (`machine`, pure), the outbox, the drivers on `websockets` (`link`, `connection`).

May not live here: capture, decoding. Time comes in as an argument everywhere but in the drivers (`link`, `connection`).
"""
