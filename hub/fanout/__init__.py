"""One question to many agents at once: a deadline for each, and who is missing and why.

Lives here: whom to ask and for how long (`plan`, pure), and the asking (`asker`, on the hub's loop). May not live here:
what an answer means.
"""
