from __future__ import annotations

import errno
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from wherry.netlink import link
from wherry.netlink.message import NLM_F_DUMP_INTR
from wherry.netlink.request import Netlink

pytestmark = pytest.mark.root


def test_failure_names_the_request_and_the_kernels_reason(route_socket: Netlink) -> None:
    with pytest.raises(OSError, match="delete nosuch") as caught:
        route_socket.ask(link.delete("nosuch"))
    assert caught.value.errno == errno.ENODEV


def test_a_failure_in_the_middle_leaves_the_socket_usable_and_the_rest_done(route_socket: Netlink) -> None:
    with pytest.raises(OSError, match="delete nosuch"):
        route_socket.ask(link.create_bridge("one"), link.delete("nosuch"), link.create_bridge("two"))
    assert {one.name for one in link.links(route_socket)} >= {"one", "two"}


def test_dump_of_many_links_is_whole(route_socket: Netlink) -> None:
    names = {f"bridge{number}" for number in range(60)}
    route_socket.ask(*(link.create_bridge(name) for name in sorted(names)))
    assert {one.name for one in link.links(route_socket)} >= names


def test_dump_during_which_the_list_changed_is_read_again(route_socket: Netlink) -> None:
    names = {f"bridge{number}" for number in range(60)}
    route_socket.ask(*(link.create_bridge(name) for name in sorted(names)))
    done = threading.Event()
    marked = 0

    def change() -> None:
        with Netlink() as other:
            while not done.is_set():
                other.ask(link.create_bridge("aaa"))
                other.ask(link.delete("aaa"))

    with ThreadPoolExecutor() as pool:
        changing = pool.submit(change)
        try:
            for _ in range(100):
                replies = route_socket.dump(link.every())
                marked += any(reply.flags & NLM_F_DUMP_INTR for reply in replies)
        finally:
            done.set()
        changing.result()
    assert marked == 0
