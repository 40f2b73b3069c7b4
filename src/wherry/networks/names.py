"""Who is called what on which network, as the resolver at 127.0.0.11 sees it.

Written by the threads that attach containers, read by the resolver's: every change replaces a whole small mapping.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address

from wherry.errors import InvalidRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A container on a network. ``names``: container name, aliases, short id; the first is what its address is called."""

    container_id: str
    network: str
    names: tuple[str, ...]
    address: IPv4Address


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What one container may ask. ``networks``: ids in order; ``links``: alias -> container name, for this container alone.

    ``upstream``: servers for other names; empty refuses them (internal networks only).
    """

    networks: tuple[str, ...]
    links: Mapping[str, str] = field(default_factory=dict)
    upstream: tuple[str, ...] = ()


class Directory:
    """All members and views of this daemon."""

    def __init__(self) -> None:
        self._members: dict[str, tuple[Member, ...]] = {}  # by network id
        self._views: dict[str, View] = {}  # by container id
        self._lock = threading.Lock()

    def join(self, network_id: str, member: Member) -> None:
        with self._lock:
            self._members[network_id] = (*self._without(network_id, member.container_id), member)

    def leave(self, network_id: str, container_id: str) -> None:
        with self._lock:
            left = self._without(network_id, container_id)
            if left:
                self._members[network_id] = left
            else:
                self._members.pop(network_id, None)

    def rename(self, container_id: str, old: str, new: str) -> None:
        """A container has another name now: on every network, and first."""
        with self._lock:
            for network_id, members in self._members.items():
                self._members[network_id] = tuple(_renamed(one, old, new) if one.container_id == container_id else one for one in members)

    def show(self, container_id: str, view: View) -> None:
        with self._lock:
            self._views[container_id] = view

    def hide(self, container_id: str) -> None:
        with self._lock:
            self._views.pop(container_id, None)

    def view(self, container_id: str) -> View | None:
        return self._views.get(container_id)

    def lookup(self, view: View, name: str) -> list[IPv4Address]:
        """The addresses of ``name``, from the first of the viewer's networks that knows it; a link's alias comes first."""
        wanted = view.links.get(name, name).lower()
        for network_id in view.networks:
            members = self._members.get(network_id, ())
            found = [one.address for one in members if _is_called(one, wanted)]
            if found:
                return found
        return []

    def reverse(self, view: View, address: IPv4Address) -> str | None:
        """``name.network`` of the container with this address."""
        for network_id in view.networks:
            for one in self._members.get(network_id, ()):
                if one.address == address:
                    return f"{one.names[0]}.{one.network}"
        return None

    def _without(self, network_id: str, container_id: str) -> tuple[Member, ...]:
        return tuple(one for one in self._members.get(network_id, ()) if one.container_id != container_id)


def link_of(text: str) -> tuple[str, str]:
    """(name, alias) of an endpoint's link: `name:alias`, `name` or `/name:/other/alias`.  Raises InvalidRequest."""
    name, colon, alias = text.partition(":")
    if not text:
        raise InvalidRequest("empty string specified for links")
    if ":" in alias:
        raise InvalidRequest(f"bad format for links: {text}")
    return name.removeprefix("/"), alias.rpartition("/")[2] if colon else name


def _is_called(member: Member, wanted: str) -> bool:
    suffix = f".{member.network.lower()}"
    bare = wanted.removesuffix(suffix)
    return any(name.lower() in (wanted, bare) for name in member.names)


def _renamed(member: Member, old: str, new: str) -> Member:
    return replace(member, names=(new, *(name for name in member.names if name not in (old, new))))
