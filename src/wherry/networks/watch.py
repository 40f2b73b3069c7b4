"""Notice when another program changes our nf_tables tables, and put them right (CVE-2025-54388: a flush must not open what was closed)."""

from __future__ import annotations

import logging
import os
import select
import selectors
import threading
from collections.abc import Callable

from wherry.netlink import nftables
from wherry.netlink.request import Netlink

log = logging.getLogger(__name__)

_PAUSE_S = 0.3  # between two repairs: with a program that insists, we insist, but calmly


class Watch:
    """A thread that waits for the kernel's notices in the network namespace of its maker.

    ``own_port``: netlink port of our own changes, which are no news; ``mend`` is called after a foreign one.
    """

    def __init__(self, table: str, *, own_port: Callable[[], int], mend: Callable[[], None]) -> None:
        self._table = table
        self._own_port = own_port
        self._mend = mend
        self._netlink: Netlink = nftables.subscribe()
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="nftables-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; once."""
        os.write(self._wake_write, b"\0")
        self._thread.join(timeout=5)
        self._netlink.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_read, selectors.EVENT_READ)
            selector.register(self._netlink, selectors.EVENT_READ)
            while not any(key.fileobj == self._wake_read for key, _ in selector.select()):
                if self._is_ours_touched():
                    self._repair()
                    if select.select([self._wake_read], [], [], _PAUSE_S)[0]:
                        return

    def _is_ours_touched(self) -> bool:
        try:
            notices = self._netlink.notices()
        except OSError as error:  # ENOBUFS: some were lost, so anything may have happened
            log.debug("nf_tables notices: %s", error)
            return True
        own = self._own_port()
        return any(one.sender != own and nftables.table_name(one) == self._table for one in notices)

    def _repair(self) -> None:
        log.warning("nf_tables: another program changed table %s; building it again", self._table)
        try:
            self._mend()
        except OSError as error:
            log.error("nf_tables: %s", error)
