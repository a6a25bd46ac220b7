"""`--capture-workers N`: one agent per core, where one core cannot read all that comes.

Each worker is an agent of its own, NODE/w1 to NODE/wN, with its ring, its books and its link: nothing is shared, so
nothing has to be put together again, and the ledger is right for each. The kernel gives every packet of a flow to the
same worker (PACKET_FANOUT_HASH, both directions alike), so a flow has one record. What it cannot see is whose flow lies
in a tunnel with a source port of its own for each direction (VXLAN, Geneve): that one gets a record in each of two
workers, one direction each.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # prctl(2)
_STOPS = (signal.SIGTERM, signal.SIGINT)


def fork_workers(count: int) -> int:
    """Become `count` processes: in each worker its number, from 1. Before any thread is started.

    The first process only waits: it passes on what it is told, ends all workers where one ends by itself, and leaves
    with the largest of their exit codes.
    """
    parent = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    children = set()
    for number in range(1, count + 1):
        pid = os.fork()
        if pid == 0:
            _bind_to(parent)
            return number
        children.add(pid)
    sys.exit(_supervise(children))


def _bind_to(parent: int) -> None:
    """A worker is told to stop when its parent ends, whatever ended it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
    if os.getppid() != parent:  # it ended before it could tell
        sys.exit(1)


def _supervise(children: set[int]) -> int:
    told = False

    def tell(number: int, _frame: object = None) -> None:
        nonlocal told
        told = True
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    for number in _STOPS:
        signal.signal(number, tell)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
    worst = 0
    while children:
        pid, status = os.wait()  # begins again after a signal (PEP 475)
        children.discard(pid)
        code = os.waitstatus_to_exitcode(status)
        worst = max(worst, code if code >= 0 else 1)
        if not told:  # a second word would mean: at once, with what is left lost
            tell(signal.SIGTERM)
    return worst
