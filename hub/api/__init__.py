"""The people's HTTP API: one route table, one file per resource, problem+json, metrics and health.

May not live here: SQL text, the agents' listener.
"""
