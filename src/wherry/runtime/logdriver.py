"""Which driver writes a container's log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from wherry.runtime.eventloop import EventLoop
from wherry.runtime.jsonlog import JsonLog
from wherry.runtime.locallog import LocalLog
from wherry.runtime.logfile import Limits


class Log(Protocol):
    """What a driver is to the monitor.  ``write`` takes output as it was read; ``finish`` writes unfinished lines, and closes."""

    def write(self, stream: str, data: bytes, now_ns: int) -> None: ...

    def finish(self, now_ns: int) -> None: ...


def open_log(target: Mapping[str, Any], loop: EventLoop | None = None) -> Log | None:
    """The log of a ``LogTarget`` as it came over the channel; None where none is kept."""
    limits = Limits(max_size_bytes=target["max_size_bytes"], max_files=target["max_files"], compress=target["compress"])
    match target["driver"]:
        case "json-file":
            return JsonLog(target["path"], limits, attributes=target["attributes"], loop=loop)
        case "local":
            return LocalLog(target["path"], limits, loop=loop)
    return None
