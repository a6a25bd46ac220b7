"""From an agent's connection to an acknowledgement: listener, sessions, the writer, the register of agents.

May not live here: SQL (that is `hub.store`), the people's API.
"""
