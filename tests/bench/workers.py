"""The workers that every peer of a measurement is measured with, as cheap as Python makes them."""

from __future__ import annotations

import sys

_HEAD = """
import json, os, sys
def write(data):
    while data:
        data = data[os.write(1, data):]
"""

ANSWER = [
    sys.executable,
    "-SEc",
    _HEAD
    + """
INIT = {"protocolVersion": "2025-06-18", "capabilities": {},
        "serverInfo": {"name": "bench", "version": "1"}}
rest = b""
while data := os.read(0, 1 << 20):
    *lines, rest = (rest + data).split(b"\\n")
    out = []
    for line in lines:
        if b'"echo"' in line:
            out.append(line.replace(b'"method":"echo","params"', b'"result"', 1) + b"\\n")
            continue
        message = json.loads(line)
        if "id" in message:
            result = INIT if message["method"] == "initialize" else {}
            answer = {"jsonrpc": "2.0", "id": message["id"], "result": result}
            out.append(json.dumps(answer).encode() + b"\\n")
    write(b"".join(out))
""",
]
"""Answers every request: ``echo`` with its own parameters, others with an empty result."""

FLOOD = [
    sys.executable,
    "-SEc",
    _HEAD
    + """
size, total = int(sys.argv[1]), int(sys.argv[2])
head = b'{"jsonrpc":"2.0","method":"event","params":{"text":"'
line = head + b"x" * (size - len(head) - 4) + b'"}}\\n'
block = line * max(1, 262144 // size)
os.read(0, 1)
for _ in range(total // (len(block) // len(line))):
    write(block)
""",
]
"""On the first byte of input, writes so many lines of such a size: ``FLOOD + [size, count]``."""


def flood(size: int, count: int) -> tuple[list[str], int]:
    """The command, and how many lines it writes in fact."""
    block = max(1, 262144 // size)
    return [*FLOOD, str(size), str(count)], count // block * block
