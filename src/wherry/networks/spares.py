"""Network namespaces made ahead, by a thread that does nothing else."""

from __future__ import annotations

import logging
import queue
import threading
import time
from contextlib import suppress

from wherry.networks import namespace
from wherry.networks.namespace import Maker, Namespace

log = logging.getLogger(__name__)

_COUNT = 2
_LATER_S = 0.02  # a start has just taken one and needs the processor more
_PATIENCE_S = 30.0


class Spares:
    """Keeps namespaces ready; ``take`` one."""

    def __init__(self) -> None:
        self._ready: queue.SimpleQueue[Namespace] = queue.SimpleQueue()
        self._taken: queue.SimpleQueue[bool] = queue.SimpleQueue()  # False: the end
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, args=[Maker()], name="namespaces", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Twice is success."""
        if self._thread is not None:
            self._taken.put(False)
            self._thread.join(timeout=_PATIENCE_S)
            self._thread = None
        with suppress(queue.Empty):
            while True:
                self._ready.get_nowait().close()

    def __bool__(self) -> bool:
        """Whether `take` need not make one."""
        return not self._ready.empty()

    def take(self) -> Namespace:
        """One that was ready, or a fresh one.  Raises OSError."""
        try:
            return self._ready.get_nowait()
        except queue.Empty:
            return namespace.create()
        finally:
            self._taken.put(True)

    def _run(self, maker: Maker) -> None:
        with maker:
            self._fill(maker)
            while self._taken.get():
                if self:
                    time.sleep(_LATER_S)
                self._fill(maker)

    def _fill(self, maker: Maker) -> None:
        try:
            while self._ready.qsize() < _COUNT:
                self._ready.put(maker.create())
        except OSError as error:
            log.warning("spare network namespace: %s", error)
