"""``wherry update``."""

from __future__ import annotations

import sys

from wherry.cli.flags import Command, Failure, Flag, Invocation, parse_swap
from wherry.cli.main import describe
from wherry.cli.resources import restart_policy
from wherry.client.engine import ApiError, container_path

FIELDS = {
    "blkio-weight": "BlkioWeight",
    "cpu-period": "CpuPeriod",
    "cpu-quota": "CpuQuota",
    "cpu-rt-period": "CpuRealtimePeriod",
    "cpu-rt-runtime": "CpuRealtimeRuntime",
    "cpu-shares": "CpuShares",
    "cpus": "NanoCpus",
    "cpuset-cpus": "CpusetCpus",
    "cpuset-mems": "CpusetMems",
    "memory": "Memory",
    "memory-reservation": "MemoryReservation",
    "memory-swap": "MemorySwap",
    "pids-limit": "PidsLimit",
}


def run(invocation: Invocation) -> int:
    if not invocation.given:
        raise Failure("you must provide one or more flags when using this command")
    body = {api: invocation.value(flag) for flag, api in FIELDS.items() if invocation.value(flag)}
    if "restart" in invocation.given:
        try:
            body["RestartPolicy"] = restart_policy(invocation.text("restart"))
        except ValueError as error:
            raise Failure(str(error)) from None
    status = 0
    warnings: list[str] = []
    for name in invocation.arguments:
        try:
            answer = invocation.program.engine.post(container_path(name, "update"), None, body)
        except ApiError as error:
            print(describe(error), file=sys.stderr)
            status = 1
        else:
            print(name)
            warnings += answer.get("Warnings") or ()
    if warnings:
        print("\n".join(warnings), file=sys.stderr)
    return status


COMMAND = Command(
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Update configuration of one or more containers",
    run,
    flags=(
        Flag("blkio-weight", "uint16", "Relative block IO weight, 10 to 1000; 0 turns it off"),
        Flag("cpu-period", "int", "CFS period in microseconds"),
        Flag("cpu-quota", "int", "CFS quota in microseconds per period"),
        Flag("cpu-rt-period", "int", "Realtime period in microseconds"),
        Flag("cpu-rt-runtime", "int", "Realtime runtime in microseconds"),
        Flag("cpu-shares", "int", "Relative CPU weight", short="c"),
        Flag("cpus", "decimal", "Number of CPUs, such as 1.5"),
        Flag("cpuset-cpus", "string", "CPUs allowed (0-3, 0,1)"),
        Flag("cpuset-mems", "string", "NUMA nodes allowed (0-3, 0,1)"),
        Flag("kernel-memory", "bytes", hidden=True),  # kernels have no separate limit for it any more: passed over, as by Docker
        Flag("memory", "bytes", "Memory limit", short="m"),
        Flag("memory-reservation", "bytes", "Soft memory limit"),
        Flag("memory-swap", "bytes", "Limit of memory and swap together; -1 for unlimited swap", parse=parse_swap),
        Flag("pids-limit", "int", "Most processes; -1 for no limit"),
        Flag("restart", "string", "When to start again: no, always, unless-stopped, on-failure[:N]"),
    ),
    minimum=1,
)
