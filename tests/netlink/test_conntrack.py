from __future__ import annotations

import socket
from ipaddress import IPv4Address, ip_interface

import pytest

from wherry.netlink import address, conntrack, link, nftables
from wherry.netlink.nftables import Table, Transaction
from wherry.netlink.request import Netlink

pytestmark = pytest.mark.root


def test_flows_of_an_address_are_forgotten_and_others_kept(route_socket: Netlink) -> None:
    for text in ("10.5.0.1/32", "10.5.0.2/32"):
        route_socket.ask(address.add(link.LOOPBACK_INDEX, ip_interface(text)))
    table = Table(nftables.NFPROTO_INET, "t")
    work = Transaction()
    work.add_table(table)
    work.add_chain(table, "out", kind="filter", hook=nftables.NF_INET_LOCAL_OUT, priority=0)
    work.add_rule(table, "out", nftables.ct_has_state(2))  # a rule about connections makes the namespace track them
    with nftables.connect() as netlink:
        work.commit(netlink)
    for host in ("10.5.0.1", "10.5.0.2"):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            server.bind((host, 5300))
            client.sendto(b"x", (host, 5300))
            server.recv(10)
    assert conntrack.forget(IPv4Address("10.5.0.1")) == 1
    assert conntrack.forget(IPv4Address("10.5.0.1")) == 0
    assert conntrack.forget(IPv4Address("10.5.0.2")) == 1
