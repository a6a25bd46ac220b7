"""What agent and hub say to each other, and nothing else.

Lives here: the schema (`schema`), the messages (`messages`), their bytes (`codec`, `columns`), the delivery
rules of both ends (`delivery`), the books (`ledger`) and the errors all of them raise (`errors`); and what options
of all programs mean (`options`).
May not live here: sockets, files, clocks, tasks, threads. Bytes and `now` come in, events and bytes go out. (Libraries
of C are found in the file system all the same, once: `built`, for `kernel` here and that of the agent; and what both
processes need of the system is here: `logs`, `memory`, `alarm`.)
Imports nothing of `agent` or `hub`.
"""

import os

# Nothing here multiplies matrices. OpenBLAS starts a thread for each core when numpy is first imported, and they spin:
# 0.2 s of CPU at each start on two cores, 63 threads on a node of 64.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

VERSION = "0.1.0"
"""Version of the nodetap distribution."""
