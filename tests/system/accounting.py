"""What a daemon holds of the machine, counted exactly: two counts are compared, and the difference must be empty."""

from __future__ import annotations

import io
import os
import tarfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.conftest import Daemon

from wherry.netlink import link, nftables
from wherry.netlink.request import Netlink
from wherry.runtime.defaults import SPARE_GROUP
from wherry.spec.settings import Settings

PROC = Path("/proc")
_NOT_COUNTED = ("state.db-wal", "state.db-shm")
_SETS = ("bridges", "internal", "pairs", "subnets", "ports", "addressed-ports", "guarded", "macs", "addresses")
_SPARE = "wherry-spare"  # one or two processes that wait for the next start, and what they have


def settings_of(daemon: Daemon) -> Settings:
    return Settings(data_root=f"{daemon.root}/data", run_root=f"{daemon.root}/run")


def processes(daemon: Daemon) -> dict[int, str]:
    """Every process of the daemon's own: pid -> command; children are known by the environment they inherited."""
    mark = f"WHERRY_TEST_ROOT={daemon.root}".encode()
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            if mark in Path(f"/proc/{entry}/environ").read_bytes().split(b"\0"):
                found[int(entry)] = Path(f"/proc/{entry}/comm").read_text().strip()
        except OSError:
            continue
    return found


def count(daemon: Daemon) -> Counter[str]:
    """Everything that could leak, one line for each thing."""
    tag = settings_of(daemon).tag
    found: Counter[str] = Counter()
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if str(daemon.root) in line:
            found[f"mount {line.split()[4]}"] += 1
    own = processes(daemon)
    for comm in own.values():
        if comm != _SPARE:
            found[f"process {comm}"] += 1
    for name in ("daemon", "wherry-zygote"):
        for pid in _named(daemon, own, name):
            for target in _opened(pid):
                found[f"{name} descriptor {target.partition('[')[0] if target.startswith(('socket:', 'pipe:', 'net:')) else target}"] += 1
    with Netlink() as netlink:
        for one in link.links(netlink):
            if f":{tag}:" in one.alias or one.name.startswith(f"{tag}"):
                found[f"interface {one.name if 'network' in one.alias else 'of a container'}"] += 1
    with nftables.connect() as netlink:
        for table in nftables.tables(netlink):
            if table.name == tag:
                for name in _SETS:
                    try:
                        found[f"element of {table.family} {name}"] += len(nftables.elements(netlink, table, name))
                    except OSError:
                        continue
    for base, folders, _ in os.walk("/sys/fs/cgroup"):
        if os.path.basename(base) == tag:
            for folder in folders:
                if not folder.startswith(SPARE_GROUP):
                    found[f"cgroup {base}/{folder}"] += 1
        elif base.count("/") > 5:
            folders.clear()
    for part in ("data", "run"):
        for base, folders, files in os.walk(daemon.root / part):
            for name in (*folders, *files):
                if name not in _NOT_COUNTED:
                    found[f"file {os.path.join(base, name)}"] += 1
    return found


def baseline(daemon: Daemon, *, quiet_s: float = 0.3) -> Counter[str]:
    """A count that stays: interfaces go a moment after the answer."""
    found, since = count(daemon), time.monotonic()
    while time.monotonic() - since < quiet_s:
        time.sleep(0.05)
        if (now := count(daemon)) != found:
            found, since = now, time.monotonic()
    return found


def growth(before: Counter[str], after: Counter[str]) -> dict[str, int]:
    """What there is more of, and less of, than before."""
    return {key: after[key] - before[key] for key in sorted(before | after) if after[key] != before[key]}


def settled(before: Counter[str], count_now: Callable[[], Counter[str]], *, seconds: float = 30) -> dict[str, int]:
    """The growth once it is nothing, or what is left of it when the time is up: some things go a moment after the answer."""
    deadline = time.monotonic() + seconds
    while (left := _more(growth(before, count_now()))) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def _more(changes: dict[str, int]) -> dict[str, int]:
    """Without what became less: something of an earlier test that ended only now is no leak."""
    return {what: number for what, number in changes.items() if number > 0}


def tar_of(members: dict[str, bytes]) -> bytes:
    """A tar of regular files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _opened(pid: int) -> list[str]:
    """What its descriptors lead to; one that ends meanwhile has none."""
    found = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with suppress(FileNotFoundError):
                found.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return found


def _named(daemon: Daemon, own: dict[int, str], name: str) -> list[int]:
    if name == "daemon":
        return [daemon.process.pid] if daemon.process is not None else []
    return [pid for pid, comm in own.items() if comm == name]
