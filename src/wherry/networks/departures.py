"""Interfaces that go: what takes the kernel long happens in a thread of its own, while nobody waits."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from wherry.netlink.request import Netlink
from wherry.networks import bridge
from wherry.networks.record import EndpointRecord

log = logging.getLogger(__name__)

_LINGER_S = 0.05
_PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Departure:
    """Interfaces to delete; ``urgent``: somebody waits for ``done``."""

    endpoints: Sequence[EndpointRecord]
    urgent: bool = False
    done: threading.Event = field(default_factory=threading.Event)


class Departures:
    """Deletes interfaces, a moment later and together.  ``gone`` hears of endpoints without interfaces."""

    def __init__(self, gone: Callable[[Sequence[EndpointRecord]], None]) -> None:
        self._gone = gone
        self._departed: queue.SimpleQueue[_Departure | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="links", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Delete what is to go, and end.  Twice is success."""
        if self._thread is not None:
            self._departed.put(None)
            self._thread.join(timeout=_PATIENCE_S)
            self._thread = None

    def depart(self, endpoints: Sequence[EndpointRecord], *, urgent: bool = False) -> threading.Event:
        """Hand interfaces over: deleting one takes the kernel far longer than all the rest of a release."""
        departure = _Departure(endpoints=endpoints, urgent=urgent)
        if self._thread is None:
            self._delete_links(endpoints)
            departure.done.set()
        else:
            self._departed.put(departure)
        return departure.done

    def settle(self) -> None:
        """Wait until what departed is gone from the kernel."""
        self.depart([], urgent=True).wait(timeout=_PATIENCE_S)

    def _run(self) -> None:
        while (item := self._departed.get()) is not None:
            items = self._gather(item)
            try:
                self._delete_links([one for departure in items for one in departure.endpoints])
            except OSError as error:
                log.warning("interfaces: %s", error)
            for departure in items:
                departure.done.set()

    def _gather(self, first: _Departure) -> Sequence[_Departure]:
        """More that departs at about the same time, unless somebody waits: the kernel deletes ten interfaces as quickly as one, and
        nothing else can be configured meanwhile."""
        items = [first]
        deadline = time.monotonic() + _LINGER_S
        while not items[-1].urgent:
            try:
                further = self._departed.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if further is None:
                self._departed.put(None)  # the end, after this work
                break
            items.append(further)
        return items

    def _delete_links(self, endpoints: Sequence[EndpointRecord]) -> None:
        try:
            with Netlink() as host:
                bridge.remove_all(host, [one.port for one in endpoints])
        finally:
            self._gone(endpoints)
