"""Messages about a command: to people on standard error, to the caller's log file in the form it asked for."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from wherry.bundle.failures import Failure


class Journal:
    """``path`` is appended to; the last line of level error is what containerd and Podman show."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._path = settings["log"]
        self._json = settings["log-format"] == "json"
        self._debug = bool(settings["debug"])
        if settings["log-format"] not in ("text", "json"):
            raise Failure(f"invalid log-format: {settings['log-format']}")

    def error(self, message: str) -> None:
        """Why the command failed."""
        self._write("error", message)
        print(f"wherry-runtime: {message}", file=sys.stderr, flush=True)

    def warn(self, message: str) -> None:
        """What went wrong and did not end the command."""
        self._write("warning", message)
        print(f"wherry-runtime: {message}", file=sys.stderr, flush=True)

    def debug(self, message: str) -> None:
        """Only with ``--debug``."""
        if self._debug:
            self._write("debug", message)

    def _write(self, level: str, message: str) -> None:
        if not self._path:
            return
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if self._json:
            line = json.dumps({"level": level, "msg": message, "time": now}, ensure_ascii=False)
        else:
            line = f'time="{now}" level={level} msg={json.dumps(message, ensure_ascii=False)}'
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            print(f"wherry-runtime: --log {self._path}: {error.strerror}", file=sys.stderr)
            return
        try:
            os.write(fd, line.encode(errors="surrogateescape") + b"\n")
        finally:
            os.close(fd)
