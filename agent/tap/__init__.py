"""The raw frames as they are captured, for who asks through the hub: filtered here, held for a moment, never written.

`catch` holds what one capture has and the hub has not yet fetched, pure; `sight` is what filters see of a block; `tap`
is the thread that looks, and `serving` answers the hub. May not live here: anything that sends.

Off by default, as the recorder is: payload is sensitive.
"""
