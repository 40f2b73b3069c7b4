"""The probe in real containers: silent where all is as configured, and naming each thing that is not."""

from __future__ import annotations

import asyncio
import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.runtime.harness import Bench, bench, config

from wherry.runtime import defaults
from wherry.runtime.probe import PROGRAM, Probe, available

pytestmark = [pytest.mark.root, pytest.mark.skipif(not available(), reason="no probe for this machine type")]
Config = dict[str, Any]


def host_namespaces() -> dict[str, str]:
    return {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in ("mnt", "pid", "ipc", "uts", "net", "cgroup")}


def configured() -> Config:
    found = config(PROGRAM)
    found["linux"]["seccomp"] = defaults.decide_socketcall(defaults.default_seccomp(defaults.CAPABILITIES), allowed=False)
    return found


def with_capability(given: Config) -> None:
    for names in given["process"]["capabilities"].values():
        names.append("CAP_NET_ADMIN")


def without_seccomp(given: Config) -> None:
    given["linux"]["seccomp"] = None


def with_open_seccomp(given: Config) -> None:
    given["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]}


def without_masks(given: Config) -> None:
    given["linux"]["maskedPaths"] = []


def with_writable_paths(given: Config) -> None:
    given["linux"]["readonlyPaths"] = []


def with_the_hosts_ipc(given: Config) -> None:
    given["linux"]["namespaces"] = [one for one in given["linux"]["namespaces"] if one["type"] != "ipc"]


def with_all_devices(given: Config) -> None:
    given["linux"]["resources"]["devices"] = [{"allow": True, "access": "rwm"}]


def with_no_new_privileges(given: Config) -> None:
    given["process"]["noNewPrivileges"] = True


WEAKENED: dict[str, tuple[Callable[[Config], None], tuple[str, ...]]] = {
    "capability": (with_capability, ("CapEff is 00000000a80435fb", "CapBnd is 00000000a80435fb")),
    "no seccomp": (
        without_seccomp,
        ("Seccomp is 0, not 2", "unshare(CLONE_NEWUSER) is allowed", "clone3 fails with EINVAL, not with ENOSYS"),
    ),
    "open seccomp": (with_open_seccomp, ("socket(AF_VSOCK) with a high bit", "32-bit socket(AF_VSOCK)")),
    "masks": (without_masks, ("/proc/kcore is not masked", "/sys/firmware is not masked")),
    "paths": (with_writable_paths, ("/proc/sys is not read-only",)),
    "ipc": (with_the_hosts_ipc, ("its ipc namespace is the host's",)),
    "devices": (with_all_devices, ("it can open a loop device",)),
    "privileges": (with_no_new_privileges, ("NoNewPrivs is 1, not 0",)),
}


async def answer(place: Bench, given: Config, probe: Probe) -> list[str]:
    (place.image / "probe").write_bytes(probe.program)
    (place.image / "probe").chmod(0o755)
    try:
        result = await place.run(given)
    finally:
        (place.image / "probe").unlink()
    return probe.weaknesses(result.stdout)


def test_everything_weaker_than_configured_is_named(image: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(image, tmp_path) as place:
            probe = Probe(configured(), host_namespaces())
            assert await answer(place, configured(), probe) == []
            for name, (weaken, expected) in WEAKENED.items():
                weak = copy.deepcopy(configured())
                weaken(weak)
                found = "; ".join(await answer(place, weak, probe))
                for text in expected:
                    if text == "/proc/kcore is not masked" and not Path("/proc/kcore").exists():
                        continue
                    assert text in found, (name, found)

    asyncio.run(scenario())
