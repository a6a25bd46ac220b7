#!/usr/bin/env python3
"""dpkt: time, addresses and ports of every frame of a capture (classic pcap, Ethernet). Prints how many frames."""

import sys

import dpkt


def main() -> None:
    """Read them all; what dpkt cannot parse has no addresses."""
    frames = 0
    with open(sys.argv[1], "rb") as file:
        for stamp, data in dpkt.pcap.Reader(file):
            frames += 1
            try:
                packet = dpkt.ethernet.Ethernet(data).data
            except dpkt.UnpackError:
                continue
            if isinstance(packet, (dpkt.ip.IP, dpkt.ip6.IP6)):
                segment = packet.data
                if isinstance(segment, (dpkt.tcp.TCP, dpkt.udp.UDP)):
                    _row = stamp, packet.src, packet.dst, segment.sport, segment.dport
    print(frames)


if __name__ == "__main__":
    main()
