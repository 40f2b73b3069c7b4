from __future__ import annotations

import socket
from ipaddress import IPv4Network, ip_interface
from pathlib import Path

import pytest

from wherry.netlink import address, link
from wherry.netlink.request import Netlink
from wherry.networks import bridge
from wherry.networks.record import NetworkRecord

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("own_host")]

NETWORK = NetworkRecord(
    id="f" * 64, name="n", driver="bridge", created="", bridge="whx-1", subnet="10.7.0.0/24", gateway="10.7.0.1", mtu=1400
)


def test_bridge_is_made_once_and_mended() -> None:
    with Netlink() as host:
        bridge.ensure(host, NETWORK, "whx")
        index = socket.if_nametoindex("whx-1")
        host.ask(address.remove(index, ip_interface("10.7.0.1/24")), address.add(index, ip_interface("10.8.0.1/24")))
        bridge.ensure(host, NETWORK, "whx")
        found = link.find(host, "whx-1")
        assert found is not None
        assert (found.index, found.mtu, found.alias, found.is_up) == (index, 1400, NETWORK.label("whx"), True)
        assert [str(one.interface) for one in address.addresses(host) if one.index == index] == ["10.7.0.1/24"]  # and no IPv6


def test_bridge_speaks_no_ipv6_and_hears_no_router() -> None:
    with Netlink() as host:
        bridge.ensure(host, NETWORK, "whx")
    for name, value in (("ipv6/conf/whx-1/disable_ipv6", "1"), ("ipv6/conf/whx-1/accept_ra", "0"), ("ipv4/conf/whx-1/route_localnet", "1")):
        assert Path(f"/proc/sys/net/{name}").read_text().strip() == value


def test_only_what_carries_our_label_and_has_no_owner_is_left_over() -> None:
    with Netlink() as host:
        bridge.ensure(host, NETWORK, "whx")
        host.ask(link.create_bridge("whx-foreign"), link.create_bridge("odd"), link.set_alias("odd", "wherry:whx:container:dead"))
        assert bridge.leftovers(host, "whx", networks=[NETWORK.id], containers=[]) == ["odd"]
        assert bridge.leftovers(host, "why", networks=[], containers=[]) == []
        bridge.remove_all(host, ["odd", "nosuch"])
        bridge.remove(host, "odd")
        assert {one.name for one in link.links(host) if one.kind == "bridge"} == {"whx-1", "whx-foreign"}


def test_networks_of_the_host_are_seen_without_our_own_bridges() -> None:
    with Netlink() as host:
        bridge.ensure(host, NETWORK, "whx")
        assert IPv4Network("10.7.0.0/24") in bridge.host_networks(host)
        assert IPv4Network("10.7.0.0/24") not in bridge.host_networks(host, without=["whx-1"])


def test_random_addresses_are_unicast_and_local() -> None:
    assert all(bridge.random_mac()[0] & 3 == 2 for _ in range(50))
