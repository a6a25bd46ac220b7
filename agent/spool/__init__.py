"""What the outbox holds, on disk as well, so that a restart of the agent does not lose it.

`segment` is the format of a file and `index` what the files hold, both pure; `folder` reads and writes files, and
`spooler` is the thread that moves batches between the outbox and the folder; `turns` is what threads that serve a disk
share. May not live here: anything that sends.
"""
