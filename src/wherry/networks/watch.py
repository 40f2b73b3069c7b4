"""Notice when another program changes our nf_tables tables, and put them right (CVE-2025-54388: a flush must not open what was closed)."""

from __future__ import annotations

import logging
import os
import select
import selectors
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wherry.netlink import nftables
from wherry.netlink.message import Message
from wherry.netlink.request import Netlink

log = logging.getLogger(__name__)

_PAUSE_S = 0.3  # between two repairs: with a program that insists, we insist, but calmly


@dataclass(frozen=True, slots=True, kw_only=True)
class Reaction:
    """``mend`` what a notice that ``concerns`` it tells of; ``warning`` is logged first, unless it is empty."""

    concerns: Callable[[Message], bool]
    mend: Callable[[], None]
    warning: str = ""


class Watch:
    """A thread that waits for the kernel's notices in the network namespace of its maker.

    ``own_port``: netlink port of our own changes, which are no news.
    """

    def __init__(self, reactions: Sequence[Reaction], *, own_port: Callable[[], int]) -> None:
        self._reactions = reactions
        self._own_port = own_port
        self._netlink: Netlink = nftables.subscribe()
        self._ignored = 0
        self._ignore_own()
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
                called = self._called()
                for one in called:
                    _mend(one)
                if called and select.select([self._wake_read], [], [], _PAUSE_S)[0]:
                    return

    def _called(self) -> Sequence[Reaction]:
        try:
            notices = self._netlink.notices()
        except OSError as error:  # ENOBUFS: some were lost, so anything may have happened
            log.debug("nf_tables notices: %s", error)
            return self._reactions
        own = self._ignore_own()
        foreign = [one for one in notices if one.sender != own]
        return [one for one in self._reactions if any(one.concerns(notice) for notice in foreign)]

    def _ignore_own(self) -> int:
        """Every start and end of a container changes the tables: not to wake for that.  The port, which may be another than before."""
        own = self._own_port()
        if own and own != self._ignored:
            self._netlink.ignore(own)
            self._ignored = own
        return own


def _mend(reaction: Reaction) -> None:
    if reaction.warning:
        log.warning("%s", reaction.warning)
    try:
        reaction.mend()
    except OSError as error:
        log.error("nf_tables: %s", error)
