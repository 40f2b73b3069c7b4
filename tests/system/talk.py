"""The API spoken directly: a command costs a process and its imports, a request a millisecond."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any

from tests.conftest import Daemon


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(daemon: Daemon, method: str, path: str, body: object = None) -> tuple[int, Any]:
    """The status and the answer, decoded where it is JSON."""
    connection = UnixConnection(daemon.socket_path)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        data = answer.read()
        return answer.status, json.loads(data) if data and "json" in answer.headers.get("Content-Type", "") else data
    finally:
        connection.close()
