"""``-p`` and ``--expose``: from words to the API's port maps.  Docker's rules and texts (go-connections/nat)."""

from __future__ import annotations

import _socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    Bindings = dict[str, list[dict[str, str]]]

LARGEST_PORT = 65535
PROTOCOLS = ("tcp", "udp", "sctp")


def publish(words: Iterable[str]) -> Bindings:
    """``PortBindings`` of all ``-p`` values.  Raises ValueError."""
    found: Bindings = {}
    for word in words:
        for port, binding in parse_publish(_short_form(word)):
            found.setdefault(port, []).append(binding)
    return found


def parse_publish(word: str) -> list[tuple[str, dict[str, str]]]:
    """``[[IP:][HOST]:]CONTAINER[/PROTO]``, each port possibly a range, as pairs of "80/tcp" and its binding."""
    head, _, container = word.rpartition(":")
    address, _, host = head.rpartition(":")
    container, protocol = split_protocol(container)
    if protocol not in PROTOCOLS:
        raise ValueError(f"invalid proto: {protocol}")
    address = _checked_address(address)
    if not container:
        raise ValueError(f"no port specified: {word}<empty>")
    first, last = _range(container, f"invalid containerPort: {container}")
    host_first, host_last = _range(host, f"invalid hostPort: {host}") if host else (0, 0)
    if host and last - first != host_last - host_first and last != first:
        raise ValueError(f"invalid ranges specified for container and host Ports: {container} and {host}")
    found = []
    for offset in range(last - first + 1):
        chosen = str(host_first + offset) if host else ""
        if host and first == last and host_first != host_last:
            chosen = f"{host_first}-{host_last}"
        found.append((f"{first + offset}/{protocol}", {"HostIp": address, "HostPort": chosen}))
    return found


def expose(word: str) -> list[str]:
    """``80``, ``80-82/udp`` as ["80/tcp"].  Raises ValueError."""
    if ":" in word:
        raise ValueError(f"invalid port format for --expose: {word}")
    numbers, protocol = split_protocol(word)
    if protocol not in PROTOCOLS:
        raise ValueError(f"invalid proto: {protocol}")
    first, last = _range(numbers, f"invalid range format for --expose: {word}, error: {_range_fault(numbers)}")
    return [f"{number}/{protocol}" for number in range(first, last + 1)]


def displayed(found: Iterable[dict[str, Any]]) -> str:
    """The ports of a container as ``ps`` shows them: neighbours that keep their number joined, then those that change it."""
    order = sorted(found, key=lambda port: (port["PrivatePort"], port.get("IP", ""), port.get("PublicPort", 0), port["Type"]))
    groups: dict[tuple[str, str], tuple[int, int]] = {}
    closed: list[str] = []
    changed: list[str] = []
    for port in order:
        inside, address, kind = port["PrivatePort"], port.get("IP", ""), port["Type"]
        if address and port.get("PublicPort", 0) != inside:
            changed.append(f"{_joined(address, str(port['PublicPort']))}->{inside}/{kind}")
            continue
        first, last = groups.get((address, kind), (inside, inside - 1))
        if inside != last + 1 and last >= first:
            closed.append(_group(address, kind, first, last))
            first = inside
        groups[address, kind] = (first, inside)
    open_groups = [_group(address, kind, first, last) for (address, kind), (first, last) in groups.items()]
    return ", ".join([*closed, *open_groups, *changed])


def _group(address: str, kind: str, first: int, last: int) -> str:
    numbers = str(first) if first == last else f"{first}-{last}"
    return f"{_joined(address, numbers)}->{numbers}/{kind}" if address else f"{numbers}/{kind}"


def _joined(address: str, port: str) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def split_protocol(text: str) -> tuple[str, str]:
    """Port and protocol of ``80/udp``; tcp when it is not named."""
    port, _, protocol = text.partition("/")
    if not port:
        return "", "tcp"
    return port, protocol.lower() or "tcp"


def order(port: str) -> tuple[int, str]:
    """To sort ``80/tcp`` by; an image may expose a range, ``9000-9002/tcp``."""
    number, _, protocol = port.partition("/")
    return int(number.partition("-")[0]), protocol


def _range_fault(text: str) -> str:
    """What Go's parser of port ranges says of one that is wrong."""
    if not text:
        return "empty string specified for ports"
    for number in text.split("-", 1):
        if not (number.isascii() and number.isdecimal()):
            return f'strconv.ParseUint: parsing "{number}": invalid syntax'
        if int(number) > LARGEST_PORT:
            return f'strconv.ParseUint: parsing "{number}": value out of range'
    return f"invalid range specified for port: {text}"


def _range(text: str, problem: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    numbers = (first, last) if dash else (first, first)
    if not all(number.isascii() and number.isdecimal() and len(number) < 6 for number in numbers):
        raise ValueError(problem)
    low, high = int(numbers[0]), int(numbers[1])
    if high < low or high > LARGEST_PORT:
        raise ValueError(problem)
    return low, high


def _checked_address(text: str) -> str:
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    elif ":" in text:
        raise ValueError(f"invalid IP address {text}: address {text}:: too many colons in address")
    if text and not is_address(text):
        raise ValueError(f"invalid IP address: {text}")
    return text


def is_address(text: str) -> bool:
    """Whether ``text`` is an IPv4 or IPv6 address."""
    for family in (_socket.AF_INET, _socket.AF_INET6):
        try:
            _socket.inet_pton(family, text)
        except (OSError, ValueError):
            continue
        return True
    return False


def _short_form(word: str) -> str:
    """``target=80,published=8080,protocol=udp`` as ``8080:80/udp``; anything else as it is."""
    if "=" not in word:
        return word
    given = {"target": "", "published": "", "protocol": "tcp"}
    for field in word.split(","):
        key, equals, value = field.partition("=")
        if not equals or not value:
            raise ValueError(f"invalid publish opts format (should be name=value but got '{field}')")
        if key.lower() not in (*given, "mode"):
            raise ValueError(f"invalid field key: {key}")
        given[key.lower()] = value
    return f"{given['published']}:{given['target']}/{given['protocol']}" if given["published"] else f"{given['target']}/{given['protocol']}"
