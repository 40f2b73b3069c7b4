from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from wherry.kernel import netns
from wherry.netlink import link
from wherry.netlink.request import Netlink


@pytest.fixture
def route_socket() -> Iterator[Netlink]:
    """A route socket in a fresh network namespace with ``lo`` up; the test's thread is in it."""
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
