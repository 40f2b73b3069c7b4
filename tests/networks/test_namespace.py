from __future__ import annotations

import os
import socket
import threading

import pytest

from wherry.netlink import link
from wherry.networks import namespace

pytestmark = pytest.mark.root


def test_new_namespace_has_only_lo_and_it_is_up() -> None:
    made = namespace.create()
    found = [one for one in link.links(made.netlink) if one.is_up]
    assert [one.name for one in found] == ["lo"]
    made.close()


def test_a_maker_is_at_home_between_two_namespaces() -> None:
    inodes: list[int] = []

    def work() -> None:
        with namespace.Maker() as maker:
            for _ in range(2):
                made = maker.create()
                inodes.extend((os.fstat(made.fd).st_ino, os.stat("/proc/thread-self/ns/net").st_ino))
                made.close()

    home = os.stat("/proc/thread-self/ns/net").st_ino
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inodes[1] == inodes[3] == home
    assert home not in (inodes[0], inodes[2])


def test_work_inside_returns_its_value_or_raises_its_error_and_ends_its_thread() -> None:
    made = namespace.create()
    home = os.stat("/proc/thread-self/ns/net").st_ino
    threads = threading.active_count()
    assert namespace.inside(made.fd, lambda: os.stat("/proc/thread-self/ns/net").st_ino) == os.fstat(made.fd).st_ino != home
    with pytest.raises(ZeroDivisionError):
        namespace.inside(made.fd, lambda: 1 // 0)
    assert os.stat("/proc/thread-self/ns/net").st_ino == home
    assert threading.active_count() == threads
    made.close()


def test_resolver_sockets_can_be_made_anew_in_the_same_namespace() -> None:
    made = namespace.create()
    for _ in range(2):
        udp, tcp = namespace.inside(made.fd, lambda: namespace.resolver_sockets("127.0.0.11"))
        with udp, tcp:

            def ask() -> None:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                    client.sendto(b"x", ("127.0.0.11", 53))

            namespace.inside(made.fd, ask)
            udp.setblocking(True)
            assert udp.recv(10) == b"x"
    made.close()
