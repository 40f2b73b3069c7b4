from __future__ import annotations

from ipaddress import ip_interface

import pytest

from wherry.netlink import address, link
from wherry.netlink.request import Netlink

pytestmark = pytest.mark.root


def test_addresses_are_added_listed_and_removed(route_socket: Netlink) -> None:
    wanted = {ip_interface("10.1.2.3/24"), ip_interface("fd00::3/64")}
    route_socket.ask(*(address.add(link.LOOPBACK_INDEX, one) for one in wanted))
    assert {one.interface for one in address.addresses(route_socket)} == wanted | {ip_interface("127.0.0.1/8"), ip_interface("::1/128")}
    route_socket.ask(*(address.remove(link.LOOPBACK_INDEX, one) for one in wanted))
    assert wanted.isdisjoint({one.interface for one in address.addresses(route_socket)})


def test_adding_twice_says_which_address(route_socket: Netlink) -> None:
    one = ip_interface("10.1.2.3/24")
    with pytest.raises(FileExistsError, match=r"add address 10\.1\.2\.3/24"):
        route_socket.ask(address.add(link.LOOPBACK_INDEX, one), address.add(link.LOOPBACK_INDEX, one))
