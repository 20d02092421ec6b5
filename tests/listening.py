"""Where processes take connections or packets, as the system says it."""

from __future__ import annotations

import os
import re
import sys
from ipaddress import ip_address
from pathlib import Path

import psutil

LISTENS = "0A"  # state of a listening socket in /proc/net/tcp
UNCONNECTED = "07"  # and of a UDP socket that takes packets from anyone


def with_children(pid: int) -> set[int]:
    """A process and all below it."""
    return {pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))}


def sockets_of(pids: set[int]) -> set[str]:
    """Inodes of the sockets that these processes have open."""
    found = set()
    for pid in pids:
        for entry in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                link = os.readlink(entry)
            except OSError:  # closed meanwhile
                continue
            found |= set(re.findall(r"socket:\[(\d+)\]", link))
    return found


def open_to(pids: set[int]) -> dict[str, list[str]]:
    """Addresses at which these processes take connections or packets, by protocol."""
    ours = sockets_of(pids)
    found: dict[str, list[str]] = {}
    for table, state in (("tcp", LISTENS), ("tcp6", LISTENS), ("udp", UNCONNECTED), ("udp6", UNCONNECTED)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == state and fields[9] in ours:
                found.setdefault(table, []).append(address(fields[1].split(":")[0]))
    return found


def address(text: str) -> str:
    """`0100007F` is 127.0.0.1: words of 32 bits in the machine's byte order."""
    words = [bytes.fromhex(text[i : i + 8])[:: -1 if sys.byteorder == "little" else 1] for i in range(0, len(text), 8)]
    return str(ip_address(b"".join(words)))
