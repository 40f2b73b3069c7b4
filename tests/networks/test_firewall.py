"""The rules alone, without those whom they are for."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

import pytest

from wherry.netlink import nftables
from wherry.netlink.nftables import Table, Transaction
from wherry.networks.firewall import BridgeFacts, Firewall, PortFacts

pytestmark = pytest.mark.root
INET, BRIDGE = Table(nftables.NFPROTO_INET, "wht"), Table(nftables.NFPROTO_BRIDGE, "wht")
NETWORKS = [BridgeFacts(bridge=f"br{n}", subnet=IPv4Network(f"10.{n}.0.0/24"), internal=False, masquerade=True) for n in range(2)]
PORTS = [PortFacts(port=f"v{n}", mac=bytes([2, 0, 0, 0, 0, n]), address=IPv4Address(f"10.0.0.{n + 2}")) for n in range(3)]


@dataclass
class Known:
    """What the daemon knows of; ``firewall`` keeps the rules for it."""

    networks: list[BridgeFacts] = field(default_factory=lambda: list(NETWORKS))
    ports: list[PortFacts] = field(default_factory=lambda: list(PORTS))

    def __post_init__(self) -> None:
        self.firewall = Firewall("wht", lambda: (self.networks, self.ports, []), bridges=lambda: [one.bridge for one in self.networks])


@pytest.fixture
def known(own_host: None) -> Iterator[Known]:
    made = Known()
    made.firewall.build()
    yield made
    made.firewall.destroy()
    made.firewall.close()


def names(table: Table, kind: str) -> list[bytes]:
    with nftables.connect() as netlink:
        return sorted(one.rstrip(b"\0") for one in nftables.elements(netlink, table, kind))


def test_what_tables_that_were_built_meanwhile_do_not_have_goes_without_a_word(known: Known, caplog: pytest.LogCaptureFixture) -> None:
    """As when they are built again between the end of an interface and that of its guard."""
    caplog.set_level(logging.INFO)
    known.ports = PORTS[:1]
    known.firewall.build()
    known.firewall.remove(PORTS[1:2], [])
    known.firewall.remove(PORTS[1:], [])
    assert names(BRIDGE, "guarded") == [b"v0"]
    assert not caplog.records


def test_a_network_that_goes_as_somebody_flushes_the_tables_is_not_built_with_them(known: Known) -> None:
    work = Transaction()
    work.delete_table(INET)
    with nftables.connect() as netlink:
        work.commit(netlink)
    known.firewall.remove_networks(NETWORKS[1:])
    assert names(INET, "bridges") == [b"br0"]


def test_tables_that_somebody_flushed_are_told_of_when_something_is_added(known: Known, caplog: pytest.LogCaptureFixture) -> None:
    work = Transaction()
    work.delete_table(BRIDGE)
    with nftables.connect() as netlink:
        work.commit(netlink)
    known.ports = PORTS[:2]
    known.firewall.add(PORTS[2:], [])
    assert names(BRIDGE, "guarded") == [b"v0", b"v1", b"v2"]
    assert "building the table again" in caplog.text
