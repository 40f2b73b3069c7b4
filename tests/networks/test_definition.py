from __future__ import annotations

import pytest

from wherry.errors import EngineError, Forbidden, InvalidRequest, NotFound, NotSupported
from wherry.networks import definition
from wherry.networks.record import NetworkRecord
from wherry.spec.docker.network import AddressPool, NetworkAddresses, NetworkCreate


def pool(**fields: str) -> NetworkAddresses:
    return NetworkAddresses(config=[AddressPool(**fields)])


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (NetworkCreate(name=""), InvalidRequest, "invalid name: name is empty"),
        (NetworkCreate(name="bridge"), Forbidden, "operation is not permitted on predefined bridge network"),
        (NetworkCreate(name="n", driver="foo"), NotFound, 'plugin "foo" not found'),
        (NetworkCreate(name="n", driver="host"), Forbidden, 'only one instance of "host" network is allowed'),
        (NetworkCreate(name="n", driver="null"), Forbidden, 'only one instance of "null" network is allowed'),
        (NetworkCreate(name="n", enable_ipv6=True), NotSupported, "IPv6 networks are not supported"),
        (
            NetworkCreate(name="n", ipam=pool(gateway="1.2.3.4")),
            InvalidRequest,
            "invalid network config:\nevery ip-range or gateway must have a corresponding subnet",
        ),
        (NetworkCreate(name="n", ipam=NetworkAddresses(driver="x")), NotFound, 'plugin "x" not found'),
        (
            NetworkCreate(name="n", options={"com.docker.network.bridge.gateway_mode_ipv4": "routed"}),
            NotSupported,
            "network option com.docker.network.bridge.gateway_mode_ipv4 is not supported",
        ),
        (NetworkCreate(name="n", options={"com.docker.network.bridge.name": "a/b"}), InvalidRequest, "invalid bridge name: a/b"),
        (NetworkCreate(name="n", options={"com.docker.network.driver.mtu": "x"}), InvalidRequest, "invalid mtu: x"),
    ],
)
def test_what_cannot_be_is_refused_in_dockers_words(body: NetworkCreate, kind: type[EngineError], message: str) -> None:
    with pytest.raises(kind) as caught:
        definition.check(body)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("fields", "gateway"),
    [
        ({"subnet": "10.7.0.0/24"}, "10.7.0.1"),
        ({"subnet": "10.7.0.0/24", "gateway": "10.7.0.254"}, "10.7.0.254"),
        ({"subnet": "10.7.0.0/24", "ip_range": "10.7.0.128/25"}, "10.7.0.128"),
    ],
)
def test_gateway_is_the_first_address_of_the_range_or_the_named_one(fields: dict[str, str], gateway: str) -> None:
    assert definition.with_gateway(definition.check(NetworkCreate(name="n", ipam=pool(**fields)))).gateway == gateway


def record(name: str, **fields: object) -> NetworkRecord:
    plain = NetworkRecord(id=name * 8, name=name, driver="bridge", created="2026-11-21T03:31:40.381563188Z")
    return definition.msgspec.structs.replace(plain, **fields)


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({}, ["ab", "cd", "host"]),
        ({"name": ["^a"]}, ["ab"]),
        ({"name": ["a", "c"]}, ["ab", "cd"]),
        ({"name": ["["]}, []),
        ({"id": ["abab"]}, ["ab"]),
        ({"driver": ["host"]}, ["host"]),
        ({"type": ["builtin"]}, ["host"]),
        ({"scope": ["swarm"]}, []),
        ({"label": ["k"]}, ["ab", "cd"]),
        ({"label": ["k", "k=1"]}, ["ab"]),
        ({"dangling": ["true"]}, ["cd"]),
        ({"dangling": ["false"]}, ["ab", "host"]),
    ],
)
def test_list_filters(filters: dict[str, list[str]], names: list[str]) -> None:
    records = [record("ab", labels={"k": "1"}), record("cd", labels={"k": "2"}), record("host", driver="host", predefined=True)]
    chosen = definition.list_filter(filters, {records[0].id})
    assert [one.name for one in records if chosen(one)] == names


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"bogus": ["1"]}, "invalid filter 'bogus'"),
        ({"type": ["x"]}, "invalid filter: 'type'='x'"),
        ({"dangling": ["x"]}, 'invalid value for filter \'dangling\', must be "true" (or "1"), or "false" (or "0")'),
    ],
)
def test_unknown_filters_are_refused(filters: dict[str, list[str]], message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        definition.list_filter(filters, ())
    assert str(caught.value) == message


def test_prune_filters() -> None:
    born = 1795231900.0  # the record's second
    one = record("ab", labels={"k": "1"})
    assert definition.prune_filter({})(one)
    assert not definition.prune_filter({"until": [str(born - 1)]})(one)
    assert definition.prune_filter({"until": [str(born + 1)]})(one)
    assert not definition.prune_filter({"label!": ["k=1"]})(one)


@pytest.mark.parametrize(
    ("fields", "shown"),
    [({"subnet": "10.7.0.0/24"}, ""), ({"subnet": "10.7.0.0/24", "gateway": "10.7.0.9"}, "10.7.0.9")],
)
def test_gateway_of_a_users_subnet_is_shown_only_if_it_was_named(fields: dict[str, str], shown: str) -> None:
    record = definition.with_gateway(definition.check(NetworkCreate(name="n", ipam=pool(**fields))))
    ipam = definition.shown(record, {}).ipam
    assert ipam is not None
    assert ipam.config is not None
    assert ipam.config[0].gateway == shown
