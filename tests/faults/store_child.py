"""A process that commits to a store and says so, to be killed: `store_child.py URL FIRST LAST [ROWS]`.

Commit k holds batch 2k-1 (packets) and batch 2k (flows) of one run. A line `k` is printed once commit k returned:
what a hub would have acknowledged.
"""

from __future__ import annotations

import sys

from store_rows import NOW, alternating

from hub.store.store import Store


def main() -> None:
    url, first, last, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    store = Store(url)
    store.open(NOW)
    print("open", flush=True)
    for number in range(first, last + 1):
        store.commit([alternating(2 * number - 1, rows), alternating(2 * number, rows)], NOW)
        print(number, flush=True)
    store.close()


if __name__ == "__main__":
    main()
