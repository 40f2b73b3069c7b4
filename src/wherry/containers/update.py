"""What `update` makes of a container's limits and restart policy.  Source: Engine API ContainerUpdate, moby's daemon/update.go."""

from __future__ import annotations

from copy import copy

from wherry.containers import restart
from wherry.containers.create import check_resources
from wherry.errors import Conflict
from wherry.spec.docker.container import HostConfig

_LIMITS = (
    *("memory", "memory_swap", "memory_reservation", "cpu_shares", "nano_cpus", "cpu_period", "cpu_quota"),
    *("cpuset_cpus", "cpuset_mems", "blkio_weight"),
)


def check(asked: HostConfig, *, cpus: int) -> None:
    """Raises InvalidRequest for what no container can have."""
    restart.checked(asked.restart_policy.name, asked.restart_policy.maximum_retry_count)
    check_resources(asked, cpus=cpus, updating=True)


def updated(before: HostConfig, asked: HostConfig, *, cpus: int) -> HostConfig:
    """``before`` with what is ``asked`` for.  Raises InvalidRequest for what no container can have, Conflict for what this one can't."""
    check(asked, cpus=cpus)
    _check_conflicts(before, asked)
    host = copy(before)
    for name in _LIMITS:
        setattr(host, name, getattr(asked, name) or getattr(before, name))
    if asked.pids_limit is not None:
        host.pids_limit = max(asked.pids_limit, 0)  # no limit
    if asked.restart_policy.name:
        host.restart_policy = asked.restart_policy
    return host


def _check_conflicts(before: HostConfig, asked: HostConfig) -> None:
    for name, words in (("cpu_period", "CPU Period"), ("cpu_quota", "CPU Quota")):
        if getattr(asked, name) > 0 and before.nano_cpus:
            raise Conflict(f"Conflicting options: {words} cannot be updated as NanoCPUs has already been set")
        if asked.nano_cpus and getattr(before, name) > 0:
            raise Conflict(f"Conflicting options: Nano CPUs cannot be updated as {words} has already been set")
    if asked.memory and asked.memory > before.memory_swap and not asked.memory_swap:  # with Docker also above -1 and 0: no limit
        raise Conflict("Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time")
    if before.auto_remove and asked.restart_policy.name not in ("", "no"):
        raise Conflict("Restart policy cannot be updated because AutoRemove is enabled for the container")
