"""Which containers a list asks for.  Source: `docker ps --filter`; Engine API 1.51 ContainerList."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from wherry.containers.container import Container
from wherry.containers.create import DIGITS
from wherry.containers.present import exposed_ports
from wherry.errors import InvalidRequest, NotFound
from wherry.spec.docker.container import PortBinding
from wherry.spec.docker.request import Filters

KEYS = frozenset("ancestor before exited expose health id is-task isolation label name network publish since status volume".split())
PRUNE_KEYS = frozenset({"until", "label", "label!"})
STATUSES = ("created", "running", "paused", "restarting", "removing", "exited", "dead")
LARGEST_PORT = 65535
HEALTHS = ("none", "starting", "healthy", "unhealthy")
FALSE = ("0", "false")
BOOLEANS = (*FALSE, "1", "true")


def check_keys(filters: Filters, allowed: frozenset[str]) -> None:
    for key in filters:
        if key not in allowed:
            raise InvalidRequest(f"invalid filter '{key}'")


def has_labels(labels: Mapping[str, str], wanted: Sequence[str]) -> bool:
    """All of ``wanted`` hold: `key` or `key=value`."""
    for text in wanted:
        key, equals, value = text.partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    return True


class ContainerFilter:
    """Built once a request; ``image_ids`` gives the ids an `ancestor` names, ``published`` a container's ports."""

    def __init__(
        self,
        filters: Filters,
        *,
        find: Callable[[str], Container],
        ancestors: Callable[[str], set[str]],
        published: Callable[[Container], Mapping[str, Sequence[PortBinding]]],
        networks: Callable[[Container], set[str]],
    ) -> None:
        check_keys(filters, KEYS)
        for value in filters.get("status", ()):
            if value not in STATUSES:
                raise InvalidRequest(
                    f"invalid filter 'status={value}': invalid value for state ({value}): must be one of {', '.join(STATUSES)}"
                )
        for value in filters.get("exited", ()):
            if not DIGITS.fullmatch(value.removeprefix("-")):
                raise InvalidRequest(f"invalid filter 'exited={value}': strconv.Atoi: parsing \"{value}\": invalid syntax")
        for value in filters.get("health", ()):
            if value not in HEALTHS:
                raise InvalidRequest(
                    f"invalid filter 'health={value}': invalid value for health ({value}): must be one of {', '.join(HEALTHS)}"
                )
        for value in filters.get("is-task", ()):
            if value not in BOOLEANS:
                raise InvalidRequest(f"invalid filter 'is-task=[{value}]'")
        for key in ("publish", "expose"):
            for value in filters.get(key, ()):
                _check_port(key, value)
        self._filters = filters
        self._published = published
        self._networks = networks
        self._ancestors = {ident for name in filters.get("ancestor", ()) for ident in ancestors(name)}
        self._before = self._moments("before", find)
        self._since = self._moments("since", find)

    def _moments(self, key: str, find: Callable[[str], Container]) -> list[int]:
        try:
            return [find(name).record.created_ns for name in self._filters.get(key, ())]
        except NotFound as error:
            raise NotFound(str(error)) from error

    @property
    def wants_all(self) -> bool:
        """A status or exit code asked for shows stopped containers too."""
        return bool(self._filters.get("status") or self._filters.get("exited"))

    def accepts(self, container: Container) -> bool:
        record = container.record
        return (
            all(check(self, container, self._filters[key]) for key, check in _CHECKS.items() if self._filters.get(key))
            and all(record.created_ns < moment for moment in self._before)
            and all(record.created_ns > moment for moment in self._since)
            and has_labels(record.config.labels or {}, self._filters.get("label", ()))
            and ("ancestor" not in self._filters or record.image_id in self._ancestors)
        )

    def _name(self, container: Container, values: Sequence[str]) -> bool:
        return any(_matches(value, container.name) or _matches(value, "/" + container.name) for value in values)

    def _publish(self, container: Container, values: Sequence[str]) -> bool:
        published = {
            f"{binding.host_port}/{name.rpartition('/')[2]}"
            for name, bindings in self._published(container).items()
            for binding in bindings
        }
        return any(_port_in(value, published) for value in values)

    def _expose(self, container: Container, values: Sequence[str]) -> bool:
        """With Docker a container exposes nothing that is not connected."""
        return container.is_running and any(
            _port_in(value, set(exposed_ports(container.record, self._published(container)))) for value in values
        )

    def _network(self, container: Container, values: Sequence[str]) -> bool:
        return bool(self._networks(container) & set(values))

    def _volume(self, container: Container, values: Sequence[str]) -> bool:
        places = {text for mount in container.record.mounts for text in (mount.name, mount.source, mount.destination) if text}
        return bool(places & set(values))


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.search(pattern[:256], name) is not None
    except re.error:
        return pattern in name


def _check_port(key: str, value: str) -> None:
    first, _, last = value.partition("/")[0].partition("-")
    for text in (first, *([last] if last else [])):
        if not DIGITS.fullmatch(text) or int(text) > LARGEST_PORT:
            reason = "value out of range" if DIGITS.fullmatch(text) else "invalid syntax"
            raise InvalidRequest(f'error while looking up for {key} {value}: strconv.ParseUint: parsing "{text}": {reason}')


def _port_in(value: str, ports: set[str]) -> bool:
    """`80`, `80/udp`, `8000-8010/tcp`."""
    numbers, _, protocol = value.partition("/")
    first, _, last = numbers.partition("-")
    return any(f"{number}/{protocol or 'tcp'}" in ports for number in range(int(first), int(last or first) + 1))


_CHECKS: dict[str, Callable[[ContainerFilter, Container, Sequence[str]], bool]] = {
    "id": lambda _, container, values: any(container.id.startswith(value) for value in values),
    "name": ContainerFilter._name,
    "status": lambda _, container, values: str(container.status) in values,
    "exited": lambda _, container, values: (
        not container.is_running and container.record.state.started_at_ns > 0 and str(container.record.state.exit_code) in values
    ),
    "health": lambda _, container, values: (container.health.status if container.health else "none") in values,
    "publish": ContainerFilter._publish,
    "expose": ContainerFilter._expose,
    "network": ContainerFilter._network,
    "volume": ContainerFilter._volume,
    "is-task": lambda _, __, values: any(value in FALSE for value in values),
    "isolation": lambda _, __, values: "default" in values,
}
