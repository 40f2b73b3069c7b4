"""Address pools of a new network, as they are given and as they are sent."""

from __future__ import annotations

import pytest

from wherry.cli.commands import network
from wherry.cli.flags import Failure, parse
from wherry.cli.program import Program


def pools(words: str) -> list[dict[str, object]]:
    return network._pools(parse(network.CREATE, "network create", Program({}, set()), [*words.split(), "name"]))


def test_ranges_gateways_and_reserved_addresses_go_to_their_subnet() -> None:
    words = "--subnet 10.1.0.0/16 --subnet fd00::/64 --gateway 10.1.0.1 --gateway fd00::1 --ip-range 10.1.2.0/24 --aux-address a=10.1.0.9"
    assert pools(words) == [
        {"Subnet": "10.1.0.0/16", "IPRange": "10.1.2.0/24", "Gateway": "10.1.0.1", "AuxiliaryAddresses": {"a": "10.1.0.9"}},
        {"Subnet": "fd00::/64", "Gateway": "fd00::1"},
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--gateway 1.2.3.4", "every ip-range or gateway must have a corresponding subnet"),
        ("--subnet 10.77.0.0/24 --ip-range 10.78.0.0/28", "no matching subnet for range 10.78.0.0/28"),
        ("--subnet 10.77.0.0/24 --gateway 10.78.0.1", "no matching subnet for gateway 10.78.0.1"),
        ("--subnet 10.77.0.0/24,10.77.0.0/25", "multiple overlapping subnet configuration is not supported"),
        ("--subnet 10.77.0.0/24 --aux-address a=10.88.0.1", "no matching subnet for aux-address 10.88.0.1"),
    ],
)
def test_addresses_without_a_subnet_are_refused(words: str, message: str) -> None:
    with pytest.raises(Failure, match=message):
        pools(words)


def test_swarm_flags_are_refused_by_name() -> None:
    with pytest.raises(Failure, match="--scope is not supported"):
        pools("--scope swarm")
