#!/usr/bin/env python3
"""scapy: the summary of every frame of a capture. Prints how many frames."""

import sys

from scapy.all import PcapReader


def main() -> None:
    """Dissect them all, print none."""
    frames = 0
    with PcapReader(sys.argv[1]) as packets:
        for packet in packets:
            packet.summary()
            frames += 1
    print(frames)


if __name__ == "__main__":
    main()
