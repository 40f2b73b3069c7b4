"""The self-test at start: a container made as every other is, whose program asks what it really got.

It runs while the daemon still builds its services, and the daemon waits for the answer before it listens: a sandbox that is weaker than
configured is not served.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
from collections.abc import Mapping
from typing import Any

from wherry.containers import oci
from wherry.containers.create import complete_host_config
from wherry.containers.record import ContainerRecord, State
from wherry.errors import Unavailable
from wherry.ids import new_id
from wherry.runtime import rawcalls
from wherry.runtime.failure import LaunchFailure
from wherry.runtime.probe import PROGRAM, Probe, available
from wherry.runtime.supervisor import Supervisor
from wherry.spec.docker.container import Config, HostConfig
from wherry.spec.launch import Attachment, Launch, LogTarget
from wherry.spec.mounts import Rootfs
from wherry.spec.settings import RUNTIME, Settings

CGROUP = "self-test"
_PATIENCE_S = 30.0


async def weaknesses(settings: Settings, supervisor: Supervisor, capabilities: tuple[str, ...], *, overlay: bool) -> list[str]:
    """What a container of these settings has that it should not, in words; empty when all is as configured."""
    if not available():
        return ["there is no self-test for this machine type"]
    config = _config(settings, capabilities)
    probe = Probe(config, _own_namespaces(), ours=settings.default_runtime == RUNTIME)
    place = f"{settings.data_root}/{CGROUP}"
    try:
        rootfs = _make_root(place, config, probe.program, overlay=overlay)
        output = await asyncio.wait_for(_run(supervisor, _launch(settings, config, rootfs)), _PATIENCE_S)
        return probe.weaknesses(output)
    except LaunchFailure as failure:
        return [f"its container does not start: {failure.message}"]
    except TimeoutError:
        return [f"its container did not end within {_PATIENCE_S:.0f} s"]
    except (OSError, ValueError) as error:
        return [f"it cannot be carried out: {error}"]


def judge(found: list[str] | None, settings: Settings) -> list[str]:
    """The warnings that `info` shall show.  Raises Unavailable where the settings do not allow a weak sandbox.

    ``found``: None for a test that failed by itself.
    """
    found = ["it failed, see the log"] if found is None else found
    if found and settings.self_test == "refuse":
        raise Unavailable(
            f"the self-test found containers weaker than configured: {'; '.join(found)}. Nothing is served; --self-test warn would serve"
        )
    return [f"WARNING: the self-test found containers weaker than configured: {text}" for text in found]


def _config(settings: Settings, capabilities: tuple[str, ...]) -> dict[str, Any]:
    host = complete_host_config(
        HostConfig(network_mode="none"),
        default_log_options={},
        security_profile=settings.security_profile,
        no_new_privileges=settings.no_new_privileges,
    )
    record = ContainerRecord(
        id=new_id(),
        name=CGROUP,
        created_ns=0,
        image_id="",
        config=Config(hostname=CGROUP),
        host_config=host,
        path=PROGRAM,
        args=[],
        state=State(),
        snapshot="",
    )
    around = oci.Surroundings(cgroups_path=f"/{settings.tag}/{CGROUP}", available_capabilities=capabilities)
    config = oci.oci_config(record, around)
    config["linux"]["namespaces"].append({"type": "network"})
    return config


def _own_namespaces() -> Mapping[str, str]:
    return {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in os.listdir("/proc/self/ns") if "_" not in kind}


def _make_root(place: str, config: Mapping[str, Any], program: bytes, *, overlay: bool) -> Rootfs:
    """A read-only tree with the program and a directory for each mount; without overlay it is bound, and what bind keeps holds for it.

    It stays for the next start, which may find the disk full.
    """
    tree, empty = f"{place}/root", f"{place}/empty"
    mounts = sorted(str(mount["destination"]) for mount in config["mounts"])
    directories = [empty, *(tree + path for path in mounts if path.count("/") == 1)]
    if not (all(os.path.isdir(path) for path in directories) and _holds(tree + PROGRAM, program)):
        shutil.rmtree(place, ignore_errors=True)
        for path in directories:
            os.makedirs(path, mode=0o700 if path == empty else 0o755)
        with open(tree + PROGRAM, "wb", opener=lambda path, flags: os.open(path, flags, 0o755)) as file:
            file.write(program)
    return Rootfs(lower=(tree, empty) if overlay else (tree,))


def _holds(path: str, data: bytes) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(data) + 1) == data
    except OSError:
        return False


def _launch(settings: Settings, config: dict[str, Any], rootfs: Rootfs) -> Launch:
    """By the runtime that containers get which ask for none."""
    return Launch(
        id=f"{settings.tag}-{CGROUP}",
        config=config,
        rootfs=rootfs,
        record_dir="",
        socket_path="",
        log=LogTarget(driver="none"),
        runtime=settings.runtimes.get(settings.default_runtime, ()),
        bundle=settings.bundle(CGROUP),
        lasting=False,
    )


async def _run(supervisor: Supervisor, launch: Launch) -> bytes:
    """What the program wrote."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            attachment = Attachment(stdin=False, stdout=True, stderr=True, multiplexed=False)
            process = await supervisor.run(launch, attachments=[(theirs.fileno(), attachment)])
        try:
            ours.setblocking(False)
            output = b""
            while data := await asyncio.get_running_loop().sock_recv(ours, 2 * rawcalls.LONGEST):
                output += data
            await process.wait()
            return output
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.signal(9)
            await process.acknowledge()
