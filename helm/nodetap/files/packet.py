"""Sends packets that nobody else would send and asks the hub for them, until they are found or time is over.

The hub is that of NODETAP_HUB_URL, with NODETAP_TOKEN_FILE and NODETAP_TLS_CA; TARGET is where packets go.
"""

import json
import os
import random
import socket
import subprocess
import sys
import time

target, seconds = os.environ["TARGET"], float(os.environ.get("SECONDS", "90"))
port, size = random.randrange(20000, 30000), random.randrange(200, 1200)
question = f"udp.dstport == {port} and udp.length == {size + 8}"
ask = ["nodetap", "packets", question, "--since", "10m", "--limit", "1", "-o", "ndjson"]
answer = None
end = time.monotonic() + seconds
while time.monotonic() < end:
    address = socket.getaddrinfo(target, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(address[0], socket.SOCK_DGRAM) as sender:
        sender.sendto(b"n" * size, address[4])
    answer = subprocess.run(ask, capture_output=True, text=True)
    if answer.stdout.strip():
        row = json.loads(answer.stdout.splitlines()[0])
        print(f"found: {question}, seen by {row['nodetap.agent']} on {row.get('nodetap.iface')}")
        sys.exit(0)
    time.sleep(2)
print(f"not found within {seconds:.0f} s: {question}", file=sys.stderr)
print(answer.stderr if answer else "", "see nodetap agents, nodetap doctor, and agent.filter", file=sys.stderr)
sys.exit(1)
