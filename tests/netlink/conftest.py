from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from wherry.kernel import netns
from wherry.netlink import link
from wherry.netlink.request import Netlink


@contextmanager
def own_network() -> Iterator[Netlink]:
    """A route socket in a fresh network namespace with ``lo`` up; the thread is in it."""
    if os.geteuid() != 0:
        pytest.skip("needs root for network namespaces")
    before = netns.current_network()
    try:
        netns.unshare_network()
        with Netlink() as netlink:
            netlink.ask(link.set_up(link.LOOPBACK_INDEX))
            yield netlink
    finally:
        netns.enter_network(before)
        os.close(before)


@pytest.fixture
def route_socket() -> Iterator[Netlink]:
    with own_network() as netlink:
        yield netlink
