"""Rows on disk: schema and migrations, Native blocks, commits, recovery, retention.

May not live here: connections, filters, anything an agent or a person says unchecked.
"""
