"""`update`, as the real Docker answers."""

from __future__ import annotations

import pytest

from wherry.containers.update import updated
from wherry.errors import Conflict, EngineError, InvalidRequest
from wherry.spec.docker.container import HostConfig, RestartPolicy

MIB = 1 << 20
SWAP = "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time"
LIMITED = HostConfig(memory=64 * MIB, memory_swap=128 * MIB)


@pytest.mark.parametrize(
    ("before", "asked", "error", "message"),
    [
        (LIMITED, HostConfig(memory=256 * MIB), Conflict, SWAP),
        (HostConfig(memory=64 * MIB, memory_swap=-1), HostConfig(memory=32 * MIB), Conflict, SWAP),
        (HostConfig(), HostConfig(memory=64 * MIB), Conflict, SWAP),
        (LIMITED, HostConfig(memory=99 * MIB, memory_swap=50 * MIB), InvalidRequest, "Minimum memoryswap limit should be larger"),
        (LIMITED, HostConfig(memory=MIB), InvalidRequest, "Minimum memory limit allowed is 6MB"),
        (HostConfig(nano_cpus=10**9), HostConfig(cpu_quota=5000), Conflict, "CPU Quota cannot be updated as NanoCPUs has"),
        (HostConfig(cpu_period=5000), HostConfig(nano_cpus=10**9), Conflict, "Nano CPUs cannot be updated as CPU Period has"),
        (HostConfig(), HostConfig(nano_cpus=10**9, cpu_quota=5000), InvalidRequest, "Nano CPUs and CPU Quota cannot both be set"),
        (HostConfig(auto_remove=True), HostConfig(restart_policy=RestartPolicy(name="always")), Conflict, "because AutoRemove is enabled"),
        (HostConfig(), HostConfig(restart_policy=RestartPolicy(name="no", maximum_retry_count=3)), InvalidRequest, "maximum retry count"),
    ],
)
def test_what_is_refused(before: HostConfig, asked: HostConfig, error: type[EngineError], message: str) -> None:
    with pytest.raises(error, match=message):
        updated(before, asked, cpus=2)


@pytest.mark.parametrize(
    ("before", "asked", "name", "value"),
    [
        (LIMITED, HostConfig(memory=128 * MIB), "memory", 128 * MIB),
        (HostConfig(), HostConfig(memory_swap=128 * MIB), "memory_swap", 128 * MIB),
        (LIMITED, HostConfig(memory_swap=50 * MIB), "memory_swap", 50 * MIB),  # a stopped one is told at its start
        (HostConfig(memory=64 * MIB, memory_swap=-1), HostConfig(memory_reservation=2048 * MIB), "memory_reservation", 2048 * MIB),
        (HostConfig(cpu_quota=-1), HostConfig(nano_cpus=10**9), "nano_cpus", 10**9),
        (HostConfig(pids_limit=20), HostConfig(memory=0), "pids_limit", 20),
        (HostConfig(pids_limit=20), HostConfig(pids_limit=0), "pids_limit", 0),
        (HostConfig(pids_limit=20), HostConfig(pids_limit=-5), "pids_limit", 0),
        (HostConfig(auto_remove=True), HostConfig(restart_policy=RestartPolicy(name="no")), "auto_remove", True),
    ],
)
def test_what_is_taken(before: HostConfig, asked: HostConfig, name: str, value: object) -> None:
    assert getattr(updated(before, asked, cpus=2), name) == value
