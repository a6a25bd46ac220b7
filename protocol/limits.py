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
"""Held ranges in one acknowledgement or welcome."""
