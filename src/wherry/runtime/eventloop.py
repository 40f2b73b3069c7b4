"""The loop of a monitor: its one thread waits for everything at once."""

from __future__ import annotations

import select
from collections.abc import Callable

IN, OUT = select.EPOLLIN, select.EPOLLOUT


class EventLoop:
    """Calls a handler with the events, as epoll(7) has them, of the descriptor that it was given for."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}

    def watch(self, fd: int, events: int, handler: Callable[[int], None]) -> None:
        """From now on, and instead of what was watched for before.  The end of ``fd`` is told whatever ``events`` are."""
        if fd in self._handlers:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def unwatch(self, fd: int) -> None:
        """To be called before ``fd`` is closed; it need not be watched."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def turn(self, timeout_s: float) -> None:
        """Handle what has happened; when that is nothing, wait for it so long, or with -1 without end."""
        for fd, events in self._epoll.poll(timeout_s):
            handler = self._handlers.get(fd)  # another one may just have ended its watch
            if handler is not None:
                handler(events)
