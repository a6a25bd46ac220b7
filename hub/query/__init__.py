"""From a person's question to SQL and from rows to the answer with its completeness.

Lives here: the filter grammar, its compiler, selections, follow. May not live here: HTTP, terminals.
"""
