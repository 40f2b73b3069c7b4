"""A container's record as the API shows it: inspect, list, ports.  Pure.  Source: Engine API 1.51 ContainerInspect, ContainerList."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from copy import copy

from wherry.containers.container import Container
from wherry.containers.create import DIGITS
from wherry.containers.health import Health as HealthState
from wherry.containers.lifecycle import Status, describe, has_process
from wherry.containers.record import ContainerRecord, MountRecord
from wherry.ids import short
from wherry.runtime import defaults
from wherry.spec.docker.container import (
    ZERO_TIME,
    ContainerInspect,
    ContainerSummary,
    GraphDriver,
    Health,
    HealthResult,
    MountPoint,
    NetworkSettings,
    Port,
    PortBinding,
    State,
    SummaryHostConfig,
    SummaryNetworks,
)
from wherry.spec.docker.network import EndpointSettings

PortMap = Mapping[str, Sequence[PortBinding]]


def rfc3339(at_ns: int) -> str:
    """Docker's time: nanoseconds without trailing zeros, or the zero time."""
    if at_ns <= 0:
        return ZERO_TIME
    seconds, rest = divmod(at_ns, 1_000_000_000)
    fraction = f".{rest:09d}".rstrip("0").rstrip(".")
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + fraction + "Z"


def state(container: Container) -> State:
    kept = container.record.state
    status = kept.status
    return State(
        status=str(status),
        running=has_process(status) or status is Status.RESTARTING,
        paused=status is Status.PAUSED,
        restarting=status is Status.RESTARTING,
        oom_killed=kept.oom_killed,
        dead=status is Status.DEAD,
        pid=kept.pid if has_process(status) else 0,
        exit_code=kept.exit_code,
        error=kept.error,
        started_at=rfc3339(kept.started_at_ns),
        finished_at=rfc3339(kept.finished_at_ns),
        health=_health(container.health) if container.health else None,
    )


def _health(health: HealthState) -> Health:
    return Health(
        status=health.status,
        failing_streak=health.failing_streak,
        log=[
            HealthResult(start=rfc3339(result.start_ns), end=rfc3339(result.end_ns), exit_code=result.exit_code, output=result.output)
            for result in health.log
        ],
    )


def mount_point(mount: MountRecord) -> MountPoint:
    return MountPoint(
        type=mount.type,
        name=mount.name,
        source=mount.source,
        destination=mount.destination,
        driver=mount.driver,
        mode=mount.mode,
        rw=not mount.read_only,
        propagation=mount.propagation if mount.type in ("bind", "image") else "",
    )


def mount_points(record: ContainerRecord) -> list[MountPoint]:
    """tmpfs asked for by `--tmpfs` is not among a container's Mounts."""
    return [mount_point(mount) for mount in record.mounts if not (mount.type == "tmpfs" and mount.spec == "tmpfs")]


def exposed_ports(record: ContainerRecord, published: PortMap) -> dict[str, list[PortBinding] | None]:
    """Every port that is exposed or published, in order of number; Compose exposes `80` and means `80/tcp`."""
    names = {name if "/" in name else f"{name}/tcp" for name in (*(record.config.exposed_ports or ()), *published)}
    return {name: list(published[name]) if published.get(name) else None for name in sorted(names, key=_port_order)}


def _port_order(name: str) -> tuple[int, str]:
    number, _, protocol = name.partition("/")
    return (int(number) if DIGITS.fullmatch(number) else 0, protocol)


def inspect(
    container: Container,
    *,
    folder: str,
    log_path: str,
    driver: str,
    graph: dict[str, str],
    endpoints: Mapping[str, EndpointSettings],
    published: PortMap,
    sandbox_id: str,
) -> ContainerInspect:
    """Everything about one container.  ``endpoints``: by network name, live where it runs."""
    record, host = container.record, container.record.host_config
    bridge = endpoints.get("bridge")
    settings = NetworkSettings(
        sandbox_id=sandbox_id,
        sandbox_key=f"/proc/{record.state.pid}/ns/net" if sandbox_id else "",
        ports=exposed_ports(record, published) if container.is_running else {},
        networks=dict(endpoints),
    )
    if bridge is not None:
        settings.endpoint_id, settings.gateway = bridge.endpoint_id, bridge.gateway
        settings.ip_address, settings.ip_prefix_len, settings.mac_address = bridge.ip_address, bridge.ip_prefix_len, bridge.mac_address
    shown = host
    if host.links:
        shown = copy(shown)
        shown.links = [_link(text, record.name) for text in host.links] if record.links else None
    if host.masked_paths is None and not host.privileged:
        shown = copy(shown)
        shown.masked_paths, shown.readonly_paths = defaults.masked_paths(), list(defaults.READONLY_PATHS)
    prepared = bool(record.state.started_at_ns or record.state.error)  # the files are made by the first start
    return ContainerInspect(
        id=record.id,
        created=rfc3339(record.created_ns),
        path=record.path,
        args=record.args,
        state=state(container),
        image=record.image_id,
        resolv_conf_path=f"{folder}/resolv.conf" if prepared else "",
        hostname_path=f"{folder}/hostname" if prepared else "",
        hosts_path=f"{folder}/hosts" if prepared else "",
        log_path=log_path if prepared else "",
        name=f"/{record.name}",
        restart_count=record.state.restart_count,
        driver=driver,
        exec_ids=[ident for ident, item in container.execs.items() if item.running] or None,
        host_config=shown,
        graph_driver=GraphDriver(data=graph, name=driver),
        mounts=mount_points(record),
        config=record.config,
        network_settings=settings,
    )


def _link(text: str, name: str) -> str:
    """`db:database` as inspect shows it: `/db:/web/database`."""
    target, _, alias = text.partition(":")
    return f"/{target.lstrip('/')}:/{name}/{alias.rpartition('/')[2] or target.lstrip('/')}"


def ports(record: ContainerRecord, published: PortMap) -> list[Port]:
    """The list form: one entry for each binding, or one without an address for a port that is only exposed."""
    result = []
    for name, bindings in exposed_ports(record, published).items():
        number, _, protocol = name.partition("/")
        if not DIGITS.fullmatch(number):
            continue
        result += [
            Port(ip=binding.host_ip, private_port=int(number), public_port=int(binding.host_port or 0), type=protocol)
            for binding in bindings or ()
        ] or [Port(private_port=int(number), type=protocol)]
    return result


def summary(
    container: Container, *, image: str, endpoints: Mapping[str, EndpointSettings], published: PortMap, now_ns: int
) -> ContainerSummary:
    """One row of `docker ps`.  ``image``: the reference, or the id where the reference has moved on."""
    record, kept = container.record, container.record.state
    links = [f"/{record.name}"]
    return ContainerSummary(
        id=record.id,
        names=links,
        image=image,
        image_id=record.image_id,
        command=" ".join([record.path, *map(_quoted, record.args)]),
        created=record.created_ns // 1_000_000_000,
        ports=ports(record, published) if container.is_running else [],
        labels=record.config.labels or {},
        state=str(record.state.status),
        status=describe(
            kept.status,
            exit_code=kept.exit_code,
            started_at_ns=kept.started_at_ns,
            finished_at_ns=kept.finished_at_ns,
            now_ns=now_ns,
            health=container.health.status if container.health else "",
        ),
        host_config=SummaryHostConfig(network_mode=record.host_config.network_mode),
        network_settings=SummaryNetworks(networks=dict(endpoints)),
        mounts=mount_points(record),
    )


def _quoted(word: str) -> str:
    """Go's habit in the command column: single quotes where a word has blanks."""
    return f"'{word}'" if " " in word else word


class Attributes(Mapping[str, str]):
    """Labels, and what is said beyond them: not put together as long as nobody asks, for labels may be many."""

    def __init__(self, labels: Mapping[str, str], more: Mapping[str, str]) -> None:
        self._labels = labels
        self._more = more

    def __getitem__(self, name: str) -> str:
        return self._more[name] if name in self._more else self._labels[name]

    def __iter__(self) -> Iterator[str]:
        yield from (name for name in self._labels if name not in self._more)
        yield from self._more

    def __len__(self) -> int:
        return len(self._labels) + sum(name not in self._labels for name in self._more)


def attributes(record: ContainerRecord, **more: str) -> Attributes:
    """What an event says of a container: its labels, image and name."""
    return Attributes(record.config.labels or {}, {"image": record.config.image, "name": record.name, **more})


def image_reference(record: ContainerRecord, resolves_to: str | None) -> str:
    """The IMAGE column: the reference as asked while it still leads to the same image, else the short id."""
    return record.config.image if resolves_to == record.image_id else short(record.image_id)
