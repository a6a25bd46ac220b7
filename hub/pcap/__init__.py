"""Raw frames of many agents as one capture.

`whom` says which agents a filter can match, `merge` puts their parts into one file in order of time (both pure), and
`fetcher` and `gather` ask for the parts on the hub's loop. May not live here: HTTP, and looking into frames.
"""
