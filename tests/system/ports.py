"""Ports to publish, of those that the kernel gives nobody by itself."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack


def free_ports(number: int) -> int:
    """The first of some neighbouring ports that nobody has."""
    for first in range(20000 + os.getpid() * 16 % 8000, 30000, number):
        with ExitStack() as stack:
            try:
                for port in range(first, first + number):
                    stack.enter_context(socket.create_server(("0.0.0.0", port)))
            except OSError:
                continue
            return first
    raise AssertionError("no free ports")
