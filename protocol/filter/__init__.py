"""The filter language: text to a typed tree, and the tree as a numpy predicate over columns.

Lives here: names, literals, nodes, typing, grammar, the numpy back end. May not live here: SQL (`hub.query.sql`), I/O.
lark is imported where the first filter is read: an agent without filters needs none.
"""
