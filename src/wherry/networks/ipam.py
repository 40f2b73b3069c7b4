"""Addresses: which subnet a network gets, and which address an endpoint.  Pure: the state is in the values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from wherry.errors import Forbidden, Internal, InvalidRequest


@dataclass(slots=True)
class Pool:
    """The addresses of one subnet. ``taken`` is a bit per address, so that the lowest free one is found by arithmetic."""

    subnet: IPv4Network
    ip_range: IPv4Network
    taken: int = field(default=0)

    @classmethod
    def of(cls, subnet: IPv4Network, ip_range: IPv4Network | None = None) -> Pool:
        """A pool in which the network's own and the broadcast address are taken."""
        pool = cls(subnet, ip_range or subnet)
        if subnet.prefixlen < 31:
            pool.reserve(subnet.network_address)
            pool.reserve(subnet.broadcast_address)
        return pool

    def reserve(self, address: IPv4Address) -> None:
        """Take one address.  Raises Forbidden when it is taken, InvalidRequest when it lies outside."""
        if address not in self.subnet:
            raise InvalidRequest(f"no configured subnet contains IP address {address}")
        bit = 1 << self._offset(address)
        if self.taken & bit:
            raise Forbidden("Address already in use")
        self.taken |= bit

    def allocate(self) -> IPv4Address:
        """Take the lowest free address of the range."""
        free = self._lowest_free()
        if free >= self.ip_range.num_addresses:
            raise Internal("no available IPv4 addresses on this network's address pools")
        self.taken |= 1 << (self._offset(self.ip_range.network_address) + free)
        return self.ip_range.network_address + free

    @property
    def is_full(self) -> bool:
        """Whether `allocate` would fail."""
        return self._lowest_free() >= self.ip_range.num_addresses

    def free(self, address: IPv4Address) -> None:
        """Give an address back; a free one is success."""
        if address in self.subnet:
            self.taken &= ~(1 << self._offset(address))

    def _lowest_free(self) -> int:
        within = self.taken >> self._offset(self.ip_range.network_address)
        return (~within & (within + 1)).bit_length() - 1

    def _offset(self, address: IPv4Address) -> int:
        return int(address) - int(self.subnet.network_address)


def choose_subnet(pools: Sequence[tuple[str, int]], used: Iterable[IPv4Network]) -> IPv4Network:
    """The first subnet of the pools that overlaps none of ``used``.

    `172.17.0.0/12` as a pool means: from 172.17 to the end of the /12.
    """
    taken = sorted((int(one.network_address), int(one.broadcast_address)) for one in used)
    for base, prefix in pools:
        whole = IPv4Network(base, strict=False)
        length = max(prefix, whole.prefixlen)
        size = 1 << (32 - length)
        start = -(-int(IPv4Address(base.split("/")[0])) // size) * size
        for first, last in taken:
            if first >= start + size:
                break
            if last >= start:
                start = (last // size + 1) * size
        if start + size - 1 <= int(whole.broadcast_address):
            return IPv4Network((start, length))
    raise Internal("all predefined address pools have been fully subnetted")


def parse_subnet(value: str) -> IPv4Network:
    """A subnet as a client names it.  Raises InvalidRequest in Docker's words."""
    try:
        subnet = IPv4Network(value, strict=False)
    except ValueError:
        raise InvalidRequest(f"invalid network config:\ninvalid subnet {value}: invalid CIDR block notation") from None
    if "/" not in value:
        raise InvalidRequest(f"invalid network config:\ninvalid subnet {value}: invalid CIDR block notation")
    if str(subnet) != value and IPv4Address(value.split("/")[0]) != subnet.network_address:
        raise InvalidRequest(f"invalid network config:\ninvalid subnet {value}: it should be {subnet}")
    return subnet


def parse_address(value: str) -> IPv4Address:
    """An address as a client names it.  Raises InvalidRequest."""
    try:
        return IPv4Address(value)
    except ValueError:
        raise InvalidRequest(f"invalid IPv4 address: {value}") from None
