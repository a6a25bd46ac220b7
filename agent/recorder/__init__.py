"""The raw frames of the last while, in a ring of files that never takes more room than it was given.

`segment` is a file as bytes, pure; `folder` reads and writes files, `recorder` is the thread that does, and `answer`
finds in them what the hub asks for. May not live here: anything that sends, or that looks into frames by itself.

Off by default: payload is sensitive, and what is not written cannot leak.
"""
