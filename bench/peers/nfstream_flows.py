#!/usr/bin/env python3
"""NFStream: the flows of a capture, without application protocols and statistics. Prints how many packets they hold.

NFStream always meters in processes of its own: one meter beside the parent, both on the core that they inherit.
"""

import sys

from nfstream import NFStreamer


def main() -> None:
    """Count packets of flows; NFStream has no flow for frames without IP."""
    streamer = NFStreamer(source=sys.argv[1], n_meters=1, n_dissections=0, statistical_analysis=False)
    print(sum(flow.bidirectional_packets for flow in streamer))


if __name__ == "__main__":
    main()
