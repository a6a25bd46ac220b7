"""Several hubs as one: `nodetap --hub-url A --hub-url B`.

Lives here: answers of several hubs put together (`order`, `sums`, `said`, `formats`, `parts`: pure), and the asking
(`hubs`, `feed`, `follow`, `frames`, `settings`). May not live here: anything that one hub alone is asked with; it is
imported where there are several.
"""
