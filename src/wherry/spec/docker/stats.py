"""One sample of a container's resource use.  Source: Engine API 1.51 ContainerStats."""

from __future__ import annotations

from wherry.spec.docker.body import Body, shown
from wherry.spec.docker.container import ZERO_TIME


class Sample(Body, rename=None):
    """Base: statistics travel under their own snake_case names."""


class PidsStats(Sample):
    current: int = 0
    limit: int = 0


class BlkioEntry(Sample):
    major: int = shown(0)
    minor: int = shown(0)
    op: str = shown("")
    value: int = shown(0)


class BlkioStats(Sample):
    io_service_bytes_recursive: list[BlkioEntry] | None = shown(None)
    io_serviced_recursive: list[BlkioEntry] | None = shown(None)
    io_queue_recursive: list[BlkioEntry] | None = shown(None)
    io_service_time_recursive: list[BlkioEntry] | None = shown(None)
    io_wait_time_recursive: list[BlkioEntry] | None = shown(None)
    io_merged_recursive: list[BlkioEntry] | None = shown(None)
    io_time_recursive: list[BlkioEntry] | None = shown(None)
    sectors_recursive: list[BlkioEntry] | None = shown(None)


class CpuUsage(Sample):
    """Nanoseconds."""

    total_usage: int = shown(0)
    percpu_usage: list[int] | None = None
    usage_in_kernelmode: int = shown(0)
    usage_in_usermode: int = shown(0)


class Throttling(Sample):
    periods: int = shown(0)
    throttled_periods: int = shown(0)
    throttled_time: int = shown(0)


class CpuStats(Sample):
    cpu_usage: CpuUsage = shown(CpuUsage())
    system_cpu_usage: int = 0
    online_cpus: int = 0
    throttling_data: Throttling = shown(Throttling())


class MemoryStats(Sample):
    usage: int = 0
    max_usage: int = 0
    stats: dict[str, int] | None = None
    failcnt: int = 0
    limit: int = 0


class InterfaceStats(Sample):
    rx_bytes: int = shown(0)
    rx_packets: int = shown(0)
    rx_errors: int = shown(0)
    rx_dropped: int = shown(0)
    tx_bytes: int = shown(0)
    tx_packets: int = shown(0)
    tx_errors: int = shown(0)
    tx_dropped: int = shown(0)


class ContainerStats(Sample):
    """``precpu_stats`` is the sample before this one, from ``preread``: clients compute rates from the pair."""

    name: str = shown("")
    id: str = shown("")
    read: str = shown(ZERO_TIME)
    preread: str = shown(ZERO_TIME)
    pids_stats: PidsStats = shown(PidsStats())
    blkio_stats: BlkioStats = shown(BlkioStats())
    num_procs: int = shown(0)
    storage_stats: dict[str, int] = shown({})
    cpu_stats: CpuStats = shown(CpuStats())
    precpu_stats: CpuStats = shown(CpuStats())
    memory_stats: MemoryStats = shown(MemoryStats())
    networks: dict[str, InterfaceStats] | None = None
