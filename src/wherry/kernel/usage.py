"""What a control group has used, from the counters of v1 or v2."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass

from wherry.kernel import cgroup, controlfiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a group has used and may use; 0 limits mean none.  ``blkio``: (major, minor, operation, bytes).

    ``out_of_memory``: how often what was wanted could not be had; counted by v2 only.
    """

    memory_bytes: int = 0
    memory_max_bytes: int = 0
    memory_limit_bytes: int = 0
    memory_stat: Mapping[str, int]
    out_of_memory: int = 0
    cpu_ns: int = 0
    cpu_user_ns: int = 0
    cpu_system_ns: int = 0
    cpu_per_core_ns: tuple[int, ...] = ()
    periods: int = 0
    throttled_periods: int = 0
    throttled_ns: int = 0
    pids: int = 0
    pids_limit: int = 0
    blkio: tuple[tuple[int, int, str, int], ...] = ()
    blkio_operations: tuple[tuple[int, int, str, int], ...] = ()  # the same, counted


def read(found: cgroup.Hierarchies, path: str) -> Usage:
    """Read the group's counters; what has no file reads 0.  Raises FileNotFoundError when the group is gone."""
    if not any(os.path.isdir(directory) for directory in found.directories(path)):
        raise FileNotFoundError(errno.ENOENT, "no such cgroup", path)
    return _usage_v2(found, path) if found.v2 else _usage_v1(found, path)


def _usage_v1(found: cgroup.Hierarchies, path: str) -> Usage:
    memory, cpu, account = (found.directory(name, path) or "/nonexistent" for name in ("memory", "cpu", "cpuacct"))
    pids, blkio = (found.directory(name, path) or "/nonexistent" for name in ("pids", "blkio"))
    times = controlfiles.table(controlfiles.read_or_nothing(f"{account}/cpuacct.stat"))
    stat = controlfiles.table(controlfiles.read_or_nothing(f"{cpu}/cpu.stat"))
    tick = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    ceiling = controlfiles.number(controlfiles.read_or_nothing(f"{memory}/memory.limit_in_bytes"))
    return Usage(
        memory_bytes=controlfiles.number(controlfiles.read_or_nothing(f"{memory}/memory.usage_in_bytes")),
        memory_max_bytes=controlfiles.number(controlfiles.read_or_nothing(f"{memory}/memory.max_usage_in_bytes")),
        memory_limit_bytes=0 if ceiling >= 1 << 62 else ceiling,
        memory_stat=controlfiles.table(controlfiles.read_or_nothing(f"{memory}/memory.stat")),
        cpu_ns=controlfiles.number(controlfiles.read_or_nothing(f"{account}/cpuacct.usage")),
        cpu_user_ns=times.get("user", 0) * tick,
        cpu_system_ns=times.get("system", 0) * tick,
        cpu_per_core_ns=tuple(int(one) for one in controlfiles.read_or_nothing(f"{account}/cpuacct.usage_percpu").split()),
        periods=stat.get("nr_periods", 0),
        throttled_periods=stat.get("nr_throttled", 0),
        throttled_ns=stat.get("throttled_time", 0),
        pids=controlfiles.number(controlfiles.read_or_nothing(f"{pids}/pids.current")),
        pids_limit=controlfiles.number(controlfiles.read_or_nothing(f"{pids}/pids.max")),
        blkio=_blkio_v1(controlfiles.read_or_nothing(f"{blkio}/blkio.throttle.io_service_bytes")),
        blkio_operations=_blkio_v1(controlfiles.read_or_nothing(f"{blkio}/blkio.throttle.io_serviced")),
    )


def _usage_v2(found: cgroup.Hierarchies, path: str) -> Usage:
    directory = found.directory("memory", path)
    stat = controlfiles.table(controlfiles.read_or_nothing(f"{directory}/cpu.stat"))
    return Usage(
        memory_bytes=controlfiles.number(controlfiles.read_or_nothing(f"{directory}/memory.current")),
        memory_max_bytes=controlfiles.number(controlfiles.read_or_nothing(f"{directory}/memory.peak")),
        memory_limit_bytes=controlfiles.number(controlfiles.read_or_nothing(f"{directory}/memory.max")),
        memory_stat=controlfiles.table(controlfiles.read_or_nothing(f"{directory}/memory.stat")),
        out_of_memory=controlfiles.table(controlfiles.read_or_nothing(f"{directory}/memory.events")).get("oom", 0),
        cpu_ns=stat.get("usage_usec", 0) * 1000,
        cpu_user_ns=stat.get("user_usec", 0) * 1000,
        cpu_system_ns=stat.get("system_usec", 0) * 1000,
        periods=stat.get("nr_periods", 0),
        throttled_periods=stat.get("nr_throttled", 0),
        throttled_ns=stat.get("throttled_usec", 0) * 1000,
        pids=controlfiles.number(controlfiles.read_or_nothing(f"{directory}/pids.current")),
        pids_limit=controlfiles.number(controlfiles.read_or_nothing(f"{directory}/pids.max")),
        blkio=_blkio_v2(controlfiles.read_or_nothing(f"{directory}/io.stat")),
    )


def _blkio_v1(text: str) -> tuple[tuple[int, int, str, int], ...]:
    rows = [line.split() for line in text.splitlines()]
    return tuple((*_device(row[0]), row[1], int(row[2])) for row in rows if len(row) == 3)


def _blkio_v2(text: str) -> tuple[tuple[int, int, str, int], ...]:
    found = []
    for line in text.splitlines():
        device, *pairs = line.split()
        values = dict(pair.split("=") for pair in pairs)
        for name, operation in (("rbytes", "read"), ("wbytes", "write")):
            found.append((*_device(device), operation, int(values.get(name, 0))))
    return tuple(found)


def _device(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(":")
    return int(major), int(minor)
