from __future__ import annotations

import os
import threading
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.kernel import netns
from wherry.netlink import link
from wherry.netlink.message import Message
from wherry.netlink.request import Netlink

# RTM_NEWLINK of a loopback interface as Linux 6.18 sent it, with its name, queue length, MTU and address only.
RECORDED = bytes.fromhex("00000403010000004900010000000000070003006c6f000008000d00e803000008000400000001000a0001000000000000000000")


def test_recorded_message_is_read() -> None:
    found = link.parse(Message(link.RTM_NEWLINK, 0, 1, RECORDED))
    assert (found.index, found.name, found.mtu, found.is_up, found.kind) == (1, "lo", 65536, True, "")


@settings(max_examples=100)
@given(st.integers(0, len(RECORDED)))
def test_truncated_message_is_refused_or_read_in_part(size: int) -> None:
    with suppress(ValueError):
        assert link.parse(Message(link.RTM_NEWLINK, 0, 1, RECORDED[:size])).index == 1


@pytest.mark.parametrize("name", ["", "sixteen-letters-", "a/b", "a b", ".", "..", "a\0b"])
def test_bad_name_is_refused_before_the_kernel_sees_it(name: str) -> None:
    with pytest.raises(ValueError, match="invalid interface name"):
        link.delete(name)


@pytest.mark.root
def test_bridge_has_its_address_label_and_mtu(route_socket: Netlink) -> None:
    route_socket.ask(
        link.create_bridge("br", mtu=1400, address=bytes.fromhex("02aabbccddee")), link.set_alias("br", "mine"), link.set_up(name="br")
    )
    found = link.find(route_socket, "br")
    assert found is not None
    assert (found.kind, found.alias, found.mtu, found.address, found.is_up) == ("bridge", "mine", 1400, "02:aa:bb:cc:dd:ee", True)
    route_socket.ask(link.rename(found.index, "other"))
    assert link.find(route_socket, "br") is None


@pytest.mark.root
def test_veth_peer_is_born_in_the_other_namespace(route_socket: Netlink) -> None:
    made: list[tuple[int, Netlink]] = []

    def other() -> None:
        netns.unshare_network()
        made.append((netns.current_network(), Netlink()))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    fd, inner = made[0]
    route_socket.ask(link.create_bridge("br"))
    bridge = link.find(route_socket, "br")
    assert bridge is not None
    pair = link.create_veth(
        "port", master=bridge.index, mtu=1300, peer_name="eth0", peer_address=bytes.fromhex("02aabbccddef"), peer_netns_fd=fd
    )
    route_socket.ask(pair, link.set_bridge_port("port", alias="label", hairpin=True, isolated=True))
    port, peer = link.find(route_socket, "port"), link.find(inner, "eth0")
    assert port is not None
    assert peer is not None
    assert (port.master, port.alias, port.mtu) == (bridge.index, "label", 1300)
    assert (peer.address, peer.mtu) == ("02:aa:bb:cc:dd:ef", 1300)
    assert link.find(route_socket, "eth0") is None
    inner.close()
    os.close(fd)


@pytest.mark.root
def test_group_is_deleted_together_and_nothing_else(route_socket: Netlink) -> None:
    route_socket.ask(*(link.create_bridge(name) for name in ("one", "two", "three")))
    route_socket.ask(link.set_group("one", 77), link.set_group("two", 77), link.delete_group(77))
    assert [one.name for one in link.links(route_socket) if one.kind == "bridge"] == ["three"]
