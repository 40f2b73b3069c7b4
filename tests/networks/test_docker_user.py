"""Docker's chain is played by one of the same name, made as the iptables program makes it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from tests.networks.machines import dial_from, ip, listen, outside, unplug
from tests.system.waiting import until

from wherry.netlink import nftables
from wherry.netlink.nftables import Transaction
from wherry.netlink.request import Netlink
from wherry.networks import docker_user
from wherry.networks.docker_user import CHAIN, TABLE
from wherry.networks.sandbox import Sandbox, SandboxRequest
from wherry.networks.service import Networks
from wherry.spec.docker.network import NetworkCreate
from wherry.spec.settings import Settings
from wherry.store.records import Records

pytestmark = pytest.mark.root


@pytest.fixture
def netlink(own_host: None) -> Iterator[Netlink]:
    with nftables.connect() as opened:
        yield opened


@pytest.fixture
def drops(netlink: Netlink) -> Iterator[None]:
    """A forward chain of another program that drops what `DOCKER-USER` does not accept."""
    make(netlink, policy=nftables.DROP)
    yield
    work = Transaction()
    work.delete_table(TABLE)
    work.commit(netlink)


def make(netlink: Netlink, *, policy: int = nftables.ACCEPT) -> None:
    work = Transaction()
    work.add_table(TABLE)
    work.add_chain(TABLE, "FORWARD", kind="filter", hook=nftables.NF_INET_FORWARD, priority=0, policy=policy)
    work.add_plain_chain(TABLE, CHAIN)
    work.add_rule(TABLE, "FORWARD", [nftables.counter(), nftables.verdict(nftables.JUMP, CHAIN)])
    work.commit(netlink)


def comments(netlink: Netlink) -> list[str]:
    found = nftables.rules(netlink, TABLE, CHAIN)
    assert found is not None
    return [one.comment for one in found]


def test_absent_chain_is_not_made(netlink: Netlink) -> None:
    assert not docker_user.admit(netlink, "wh", ["br0"])
    assert nftables.tables(netlink) == []


def test_only_our_own_rules_are_added_and_removed(netlink: Netlink, drops: None) -> None:
    work = Transaction()
    work.add_rule(TABLE, CHAIN, [nftables.counter(), nftables.verdict(nftables.ACCEPT)], comment="wherry:other:from:br0")
    work.add_rule(TABLE, CHAIN, [nftables.meta_iifname(), nftables.compare(b"eth9\0"), nftables.verdict(nftables.DROP)])
    work.commit(netlink)
    for _ in range(2):
        assert docker_user.admit(netlink, "wh", ["br0", "br1"])
        ours = ["wherry:wh:from:br0", "wherry:wh:to:br0", "wherry:wh:from:br1", "wherry:wh:to:br1"]
        assert comments(netlink) == ["wherry:other:from:br0", "", *ours]
    docker_user.admit(netlink, "wh", ["br1"])
    assert comments(netlink) == ["wherry:other:from:br0", "", "wherry:wh:from:br1", "wherry:wh:to:br1"]
    docker_user.admit(netlink, "wh", [])
    assert comments(netlink) == ["wherry:other:from:br0", ""]


def test_rules_come_before_a_return_that_ends_the_chain(netlink: Netlink, drops: None) -> None:
    work = Transaction()
    work.add_rule(TABLE, CHAIN, [nftables.counter(), nftables.verdict(nftables.RETURN)])
    work.commit(netlink)
    docker_user.admit(netlink, "wh", ["br0"])
    assert comments(netlink) == ["wherry:wh:from:br0", "wherry:wh:to:br0", ""]


def test_a_rule_for_some_packets_that_returns_does_not_end_the_chain(netlink: Netlink, drops: None) -> None:
    work = Transaction()
    work.add_rule(TABLE, CHAIN, [nftables.meta_iifname(), nftables.compare(b"eth9\0"), nftables.verdict(nftables.RETURN)])
    work.commit(netlink)
    docker_user.admit(netlink, "wh", ["br0"])
    assert comments(netlink) == ["", "wherry:wh:from:br0", "wherry:wh:to:br0"]


def test_containers_reach_the_outside_in_spite_of_a_policy_of_drop(netlink: Netlink, drops: None, networks: Networks) -> None:
    assert networks.warnings() == []
    network = networks.create(NetworkCreate(name="n"))
    client = networks.attach(SandboxRequest(container_id="1" * 64, name="client", mode="n"))
    far = outside(networks)
    listen(far)
    assert dial_from(client, "198.51.100.1", 80) == "198.51.100.254"
    docker_user.admit(netlink, "whatever", [])
    # The next consent is the chain's alone: without it the policy drops.
    work = Transaction()
    for rule in nftables.rules(netlink, TABLE, "FORWARD") or []:
        work.delete_rule(TABLE, "FORWARD", rule.handle)
    work.commit(netlink)
    with pytest.raises(TimeoutError):
        dial_from(client, "198.51.100.1", 80, timeout=0.3)
    assert len(networks.warnings()) == 1
    networks.release(client.container_id)
    unplug(networks, far)
    networks.remove(network.id)
    assert not [one for one in comments(netlink) if network.id[:8] in one]


def test_networks_stay_apart_although_docker_lets_both_pass(netlink: Netlink, drops: None, networks: Networks) -> None:
    networks.create(NetworkCreate(name="one"))
    networks.create(NetworkCreate(name="two"))
    server: Sandbox = networks.attach(SandboxRequest(container_id="1" * 64, name="server", mode="one"))
    client = networks.attach(SandboxRequest(container_id="2" * 64, name="client", mode="two"))
    listen(server)
    with pytest.raises(TimeoutError):
        dial_from(client, ip(server, "one"), 80, timeout=0.3)
    networks.release(server.container_id)
    networks.release(client.container_id)
    networks.remove("one")
    networks.remove("two")


def test_rules_come_when_docker_starts_later_and_come_back_when_flushed(netlink: Netlink, networks: Networks) -> None:
    make(netlink)
    until(lambda: len(comments(netlink)) == 2)
    work = Transaction()
    for rule in nftables.rules(netlink, TABLE, CHAIN) or []:
        work.delete_rule(TABLE, CHAIN, rule.handle)
    work.commit(netlink)
    until(lambda: len(comments(netlink)) == 2)
    networks.close()
    networks.destroy()
    assert comments(netlink) == []
    work = Transaction()
    work.delete_table(TABLE)
    work.commit(netlink)


def test_chain_is_left_alone_on_demand_and_the_warning_says_so(
    netlink: Netlink, drops: None, tmp_path: object, records: Records, caplog: pytest.LogCaptureFixture
) -> None:
    service = Networks(Settings(data_root=str(tmp_path), run_root=str(tmp_path), docker_user=False), records)
    with caplog.at_level(logging.WARNING):
        service.start()
    assert comments(netlink) == []
    assert "chain FORWARD of table filter" in caplog.text
    service.close()
    service.destroy()
