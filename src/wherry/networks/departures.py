"""Interfaces that go and namespaces made ahead: what takes the kernel long happens in a thread of its own, while nobody waits."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from wherry.netlink.request import Netlink
from wherry.networks import bridge, namespace
from wherry.networks.namespace import Maker, Namespace
from wherry.networks.record import EndpointRecord

log = logging.getLogger(__name__)

_SPARE_NAMESPACES = 2
_LINGER_S = 0.05
_PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Departure:
    """Interfaces to delete; ``urgent``: somebody waits for ``done``. Without either it only asks for spare namespaces."""

    endpoints: Sequence[EndpointRecord]
    urgent: bool = False
    done: threading.Event = field(default_factory=threading.Event)


class Departures:
    """Deletes interfaces, a moment later and together, and keeps namespaces ready.  ``gone`` hears of endpoints without interfaces."""

    def __init__(self, gone: Callable[[Sequence[EndpointRecord]], None]) -> None:
        self._gone = gone
        self._spare: queue.SimpleQueue[Namespace] = queue.SimpleQueue()
        self._departed: queue.SimpleQueue[_Departure | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, args=[Maker()], name="links", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Delete what is to go, and end.  Twice is success."""
        if self._thread is not None:
            self._departed.put(None)
            self._thread.join(timeout=_PATIENCE_S)
            self._thread = None
        with suppress(queue.Empty):
            while True:
                self._spare.get_nowait().close()

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

    @property
    def has_spare(self) -> bool:
        """Whether `new_namespace` need not make one."""
        return not self._spare.empty()

    def new_namespace(self) -> Namespace:
        """A spare namespace, or a fresh one; the thread that deletes interfaces makes the next."""
        try:
            return self._spare.get_nowait()
        except queue.Empty:
            return namespace.create()
        finally:
            if self._thread is not None:
                self._departed.put(_Departure(endpoints=()))

    def _run(self, maker: Maker) -> None:
        with maker:
            self._serve(maker)

    def _serve(self, maker: Maker) -> None:
        self._fill_spare(maker)
        while (item := self._departed.get()) is not None:
            if not item.endpoints and not item.urgent:
                self._fill_spare(maker)
                continue
            items = self._gather(item)
            try:
                self._delete_links([one for departure in items for one in departure.endpoints])
            except OSError as error:
                log.warning("interfaces: %s", error)
            for departure in items:
                departure.done.set()
            self._fill_spare(maker)

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

    def _fill_spare(self, maker: Maker) -> None:
        try:
            while self._departed.empty() and self._spare.qsize() < _SPARE_NAMESPACES:
                self._spare.put(maker.create())
        except OSError as error:
            log.warning("spare network namespace: %s", error)

    def _delete_links(self, endpoints: Sequence[EndpointRecord]) -> None:
        try:
            with Netlink() as host:
                bridge.remove_all(host, [one.port for one in endpoints])
        finally:
            self._gone(endpoints)
