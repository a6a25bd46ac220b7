"""From a person's question to SQL and from rows to the answer with its completeness.

Lives here: filters as SQL, selections, follow. May not live here: HTTP, terminals.
"""
