"""Sizes that bound what one side makes the other hold. Bytes unless said otherwise."""

VERSIONS = (1,)
"""Protocol versions this code speaks, newest first. Neighbouring releases interoperate in both directions."""

MAX_MESSAGE = 16 << 20
"""One WebSocket message."""
MAX_RAW = 32 << 20
"""The columns of one batch after decompression."""
MAX_ROWS = 131_072
"""Rows of one batch."""
MAX_COLUMNS = 1_024
"""Columns of one batch, unknown ones included."""
MAX_NAME = 253
"""An agent's or a node's name, characters (a DNS name's limit)."""
MAX_HELD = 4_096
"""Held ranges of one epoch in an acknowledgement or welcome."""
MAX_RANGES = 65_536
"""Held ranges in one welcome, over all its epochs."""
MAX_VALUES = 262_144
"""Values of one message or of one batch's columns: every item, key and container counts as one."""
MAX_DEPTH = 16
"""Containers inside each other in one message."""
MAX_STRING = 65_536
"""One string of a message."""
MAX_STRINGS = 8 << 20
"""All strings of one message, or of one batch's columns: one wide character makes all of a string four times as large
in memory. Binaries do not count."""
MAX_DETAIL = 1_000
"""One line for people, characters; longer ones are cut."""
MAX_REASONS = 64
"""Different reasons in one map of a report."""
MAX_WORD = 40
"""A reason, a code or a state, characters."""
MAX_FILTER = 16_384
"""A display filter, characters."""
MAX_FETCH = 4 << 20
"""Raw frames of one part, with what surrounds them; a part of one frame may be larger."""
MAX_RETRY = 86_400
"""Seconds that a hub may tell an agent to stay away."""
