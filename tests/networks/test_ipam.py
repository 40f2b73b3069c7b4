from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.errors import Forbidden, Internal, InvalidRequest
from wherry.networks.ipam import Pool, choose_subnet, parse_subnet
from wherry.spec.settings import Settings

POOLS = Settings().address_pools


def test_lowest_free_address_is_given_and_given_again_once_free() -> None:
    pool = Pool.of(IPv4Network("172.17.0.0/16"))
    pool.reserve(IPv4Address("172.17.0.1"))
    first, second = pool.allocate(), pool.allocate()
    assert (str(first), str(second)) == ("172.17.0.2", "172.17.0.3")
    pool.free(first)
    pool.free(first)
    assert pool.allocate() == first


def test_range_limits_what_is_given_but_not_what_may_be_asked_for() -> None:
    pool = Pool.of(IPv4Network("10.0.0.0/24"), IPv4Network("10.0.0.16/31"))
    pool.reserve(IPv4Address("10.0.0.99"))
    assert [str(pool.allocate()), str(pool.allocate())] == ["10.0.0.16", "10.0.0.17"]
    with pytest.raises(Internal, match="no available IPv4 addresses"):
        pool.allocate()


def test_taken_and_foreign_addresses_are_refused() -> None:
    pool = Pool.of(IPv4Network("10.0.0.0/24"))
    with pytest.raises(Forbidden, match="Address already in use"):
        pool.reserve(IPv4Address("10.0.0.255"))
    with pytest.raises(InvalidRequest, match="no configured subnet contains IP address"):
        pool.reserve(IPv4Address("10.0.1.1"))


@settings(max_examples=50)
@given(st.integers(24, 30), st.lists(st.booleans(), max_size=80))
def test_no_address_is_ever_held_twice(prefix: int, steps: list[bool]) -> None:
    pool = Pool.of(IPv4Network(f"10.0.0.0/{prefix}"))
    held: list[IPv4Address] = []
    for give in steps:
        if not give and held:
            pool.free(held.pop(0))
            continue
        if len(held) == pool.subnet.num_addresses - 2:
            continue
        address = pool.allocate()
        assert address not in held
        assert address in pool.subnet
        held.append(address)


def test_subnets_come_in_dockers_order_and_skip_what_is_used() -> None:
    used: list[IPv4Network] = []
    for _ in range(16):
        used.append(choose_subnet(POOLS, used))
    assert [str(used[0]), str(used[1]), str(used[14]), str(used[15])] == [
        "172.17.0.0/16",
        "172.18.0.0/16",
        "172.31.0.0/16",
        "192.168.0.0/20",
    ]
    assert str(choose_subnet(POOLS, [IPv4Network("172.17.5.0/24")])) == "172.18.0.0/16"
    with pytest.raises(Internal, match="all predefined address pools have been fully subnetted"):
        choose_subnet(POOLS, [IPv4Network("172.16.0.0/12"), IPv4Network("192.168.0.0/16")])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("1.2.3.4/40", "invalid network config:\ninvalid subnet 1.2.3.4/40: invalid CIDR block notation"),
        ("10.99.0.5/24", "invalid network config:\ninvalid subnet 10.99.0.5/24: it should be 10.99.0.0/24"),
        ("10.99.0.0", "invalid network config:\ninvalid subnet 10.99.0.0: invalid CIDR block notation"),
        ("x", "invalid network config:\ninvalid subnet x: invalid CIDR block notation"),
    ],
)
def test_bad_subnet_is_refused_in_dockers_words(value: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_subnet(value)
    assert str(caught.value) == message
