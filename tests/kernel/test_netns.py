from __future__ import annotations

import os
import socket
import threading

import pytest

from wherry.kernel import netns

pytestmark = pytest.mark.root


def test_thread_leaves_and_returns_without_moving_the_others() -> None:
    home = os.stat("/proc/thread-self/ns/net").st_ino
    seen: list[int] = []

    def travel() -> None:
        back = netns.current_network()
        try:
            netns.unshare_network()
            seen.append(os.stat("/proc/thread-self/ns/net").st_ino)
            netns.enter_network(back)
            seen.append(os.stat("/proc/thread-self/ns/net").st_ino)
        finally:
            os.close(back)

    thread = threading.Thread(target=travel)
    thread.start()
    thread.join()
    assert seen[0] != home
    assert seen[1] == home
    assert os.stat("/proc/thread-self/ns/net").st_ino == home


def test_entering_what_is_no_namespace_names_the_call() -> None:
    with open("/dev/null") as nothing, pytest.raises(OSError, match="setns"):
        netns.enter_network(nothing.fileno())


def test_the_loopback_of_a_new_network_is_raised() -> None:
    def is_up() -> bool:
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            server.listen()
            with socket.socket() as client:
                return client.connect_ex(server.getsockname()) == 0

    seen: list[bool] = []

    def raise_it() -> None:
        netns.unshare_network()
        seen.append(is_up())
        netns.raise_loopback()
        seen.append(is_up())

    thread = threading.Thread(target=raise_it)  # its network ends with it
    thread.start()
    thread.join()
    assert seen == [False, True]
