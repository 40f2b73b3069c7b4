from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network

import pytest

from wherry.netlink import address, link, route
from wherry.netlink.request import Netlink

pytestmark = pytest.mark.root


def test_default_route_is_added_listed_and_removed(route_socket: Netlink) -> None:
    route_socket.ask(link.create_bridge("br"), link.set_up(name="br"))
    found = link.find(route_socket, "br")
    assert found is not None
    gateway = ip_address("10.9.0.1")
    route_socket.ask(address.add(found.index, ip_interface("10.9.0.2/16")), route.add_default(gateway, found.index))
    listed = {(one.destination, one.gateway, one.index) for one in route.routes(route_socket)}
    assert listed == {(ip_network("0.0.0.0/0"), gateway, found.index), (ip_network("10.9.0.0/16"), None, found.index)}
    route_socket.ask(route.remove_default(gateway, found.index))
    assert [one.destination.prefixlen for one in route.routes(route_socket)] == [16]
