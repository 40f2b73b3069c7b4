"""Samples of what a container uses, from its control groups and its network namespace.  Source: Engine API 1.51 ContainerStats."""

from __future__ import annotations

import os
import time

from wherry.containers.container import Container
from wherry.containers.present import rfc3339
from wherry.engine.rooms import Rooms
from wherry.kernel import usage
from wherry.spec.docker.stats import (
    BlkioEntry,
    BlkioStats,
    ContainerStats,
    CpuStats,
    CpuUsage,
    InterfaceStats,
    MemoryStats,
    PidsStats,
    Throttling,
)

_MEMORY_STATS_V2 = (
    *("anon", "file", "kernel_stack", "slab", "sock", "shmem", "file_mapped", "file_dirty", "file_writeback", "anon_thp"),
    *("inactive_anon", "active_anon", "inactive_file", "active_file", "unevictable", "slab_reclaimable", "slab_unreclaimable"),
    *("pgfault", "pgmajfault", "workingset_refault", "workingset_activate", "workingset_nodereclaim", "pgrefill", "pgscan", "pgsteal"),
    *("pgactivate", "pgdeactivate", "pglazyfree", "pglazyfreed", "thp_fault_alloc", "thp_collapse_alloc"),
)  # as Docker names them, whatever the kernel has
_NO_PIDS_LIMIT_V2 = (1 << 64) - 1


def sample(rooms: Rooms, container: Container, cgroups_path: str) -> ContainerStats:
    """What it uses now; zeros for one that does not run.  Blocking."""
    stats = ContainerStats(name=f"/{container.name}", id=container.id)
    if not container.is_running:
        return stats
    stats.read = rfc3339(time.time_ns())
    used = usage.read(rooms.cgroups, cgroups_path)
    cpus = len(os.sched_getaffinity(0))
    stats.cpu_stats = CpuStats(
        cpu_usage=CpuUsage(
            total_usage=used.cpu_ns,
            percpu_usage=list(used.cpu_per_core_ns) or None,
            usage_in_kernelmode=used.cpu_system_ns,
            usage_in_usermode=used.cpu_user_ns,
        ),
        system_cpu_usage=_system_cpu_ns(),
        online_cpus=cpus,
        throttling_data=Throttling(periods=used.periods, throttled_periods=used.throttled_periods, throttled_time=used.throttled_ns),
    )
    v2 = rooms.cgroups.v2 is not None
    stats.memory_stats = MemoryStats(
        usage=used.memory_bytes,
        max_usage=0 if v2 else used.memory_max_bytes,
        stats={name: used.memory_stat.get(name, 0) for name in _MEMORY_STATS_V2} if v2 else dict(used.memory_stat),
        failcnt=used.out_of_memory,
        limit=_memory_limit(used.memory_limit_bytes),
    )
    stats.pids_stats = PidsStats(current=used.pids, limit=used.pids_limit or (_NO_PIDS_LIMIT_V2 if v2 else 0))
    stats.blkio_stats = _block_io(used, v2=v2)
    stats.networks = interfaces(container.record.state.pid)
    return stats


def _block_io(used: usage.Usage, *, v2: bool) -> BlkioStats:
    """What there are no counters for is null with cgroup v2 and empty with v1, as with Docker."""

    def entries(rows: tuple[tuple[int, int, str, int], ...]) -> list[BlkioEntry]:
        return [BlkioEntry(major=major, minor=minor, op=op, value=value) for major, minor, op, value in rows]

    if v2:
        return BlkioStats(io_service_bytes_recursive=entries(used.blkio))
    return BlkioStats(
        io_service_bytes_recursive=entries(used.blkio),
        io_serviced_recursive=entries(used.blkio_operations),
        io_queue_recursive=[],
        io_service_time_recursive=[],
        io_wait_time_recursive=[],
        io_merged_recursive=[],
        io_time_recursive=[],
        sectors_recursive=[],
    )


def _memory_limit(limit: int) -> int:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return limit if 0 < limit < total else total


def _system_cpu_ns() -> int:
    """Time all processors have spent since boot."""
    with open("/proc/stat") as file:
        ticks = sum(int(word) for word in file.readline().split()[1:9])
    return ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def interfaces(pid: int) -> dict[str, InterfaceStats] | None:
    """The counters of every interface but lo in the namespace of ``pid``."""
    try:
        with open(f"/proc/{pid}/net/dev") as file:
            lines = file.readlines()[2:]
    except (FileNotFoundError, ProcessLookupError, OSError):
        return None
    found = {}
    for line in lines:
        name, _, numbers = line.partition(":")
        words = [int(word) for word in numbers.split()]
        if name.strip() != "lo":
            found[name.strip()] = InterfaceStats(
                rx_bytes=words[0], rx_packets=words[1], rx_errors=words[2], rx_dropped=words[3],
                tx_bytes=words[8], tx_packets=words[9], tx_errors=words[10], tx_dropped=words[11],
            )  # fmt: skip
    return found or None
