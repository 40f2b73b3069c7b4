"""Control groups, v1, v2 and both: where they are mounted, make, join, limit, freeze, read, remove.

A container's group has one path below every hierarchy. Limits come as an OCI ``linux.resources`` object.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from wherry.kernel import devicefilter

_KILL_ROUNDS = 100
_V1 = ("memory", "cpu", "cpuacct", "cpuset", "pids", "devices", "freezer", "blkio", "hugetlb", "net_cls", "net_prio", "perf_event", "rdma")


@dataclass(frozen=True, slots=True)
class Hierarchies:
    """Controller -> mount point of its v1 hierarchy, and the v2 mount point when v2 is what controls (v1 then is empty)."""

    v1: Mapping[str, str]
    v2: str | None

    def directories(self, path: str) -> list[str]:
        """Every distinct directory of the group ``path``."""
        roots = [self.v2] if self.v2 else dict.fromkeys(self.v1.values())
        return [f"{root}/{path.lstrip('/')}" for root in roots]

    def directory(self, controller: str, path: str) -> str | None:
        """The group's directory in the hierarchy of ``controller``; None where that is not mounted."""
        root = self.v2 or self.v1.get(controller)
        return None if root is None else f"{root}/{path.lstrip('/')}"


def find(mountinfo: str = "/proc/self/mountinfo") -> Hierarchies:
    """What is mounted.  v2 is used when no v1 controller is: an empty v2 beside v1 (hybrid) does not count."""
    v1: dict[str, str] = {}
    v2 = None
    with open(mountinfo, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            kind, _, options = right.split(" ", 2)
            target = left.split(" ")[4]
            if kind == "cgroup2":
                v2 = v2 or target
            elif kind == "cgroup":
                v1 |= {name: target for name in options.strip().split(",") if name in _V1 and name not in v1}
    return Hierarchies(v1, None) if v1 else Hierarchies({}, v2)


def create(found: Hierarchies, path: str) -> None:
    """Make the group in every hierarchy, with what its children need from its parents; existing is success."""
    if found.v2:
        _create_v2(found.v2, path)
        return
    for directory in found.directories(path):
        try:
            os.mkdir(directory, 0o755)
        except FileExistsError:
            continue
        except FileNotFoundError:
            os.makedirs(directory, 0o755, exist_ok=True)
    _inherit_cpuset(found, path)


def join(found: Hierarchies, path: str) -> None:
    """Move this single-threaded process into the group.

    On v1 "0" is written to ``tasks``: that moves the calling thread without the kernel's global lock and its grace period.
    """
    for directory in found.directories(path):
        _write(f"{directory}/{'cgroup.procs' if found.v2 else 'tasks'}", "0")


def rename(found: Hierarchies, old: str, new: str) -> None:
    """Give a v1 group, with who is in it, another name beside the old one.  Raises FileExistsError; it has the old name then."""
    done: list[tuple[str, str]] = []
    try:
        for directories in zip(found.directories(old), found.directories(new), strict=True):
            os.rename(*directories)
            done.append(directories)
    except OSError:
        for former, now in done:
            os.rename(now, former)
        raise


def limit(found: Hierarchies, path: str, resources: Mapping[str, Any]) -> None:
    """Apply an OCI ``linux.resources`` object; fields it does not have stay as they are.

    Raises OSError naming the file where the kernel refuses a value, NotImplementedError for a limit this machine has no controller for.
    """
    for controller, name, value in settings(resources, v2=found.v2 is not None):
        directory = found.directory(controller, path)
        if directory is None:
            raise NotImplementedError(f"this machine has no {controller} cgroup for {name}")
        if name == "io.bfq.weight" and not os.path.exists(f"{directory}/{name}"):
            name, value = "io.weight", _io_weight(value)
        _write(f"{directory}/{_present(directory, name)}", value)
    _limit_memory(found, path, resources.get("memory") or {})
    if not found.v2:
        _limit_devices(found, path, resources.get("devices") or ())
    elif rules := resources.get("devices"):
        devicefilter.attach(f"{found.v2}/{path.lstrip('/')}", devicefilter.assemble(rules))


def _present(directory: str, name: str) -> str:
    """Weights of block IO are of one scheduler or another: CFQ's files are gone from newer kernels, BFQ's have another name."""
    other = name.replace("blkio.weight", "blkio.bfq.weight")
    return other if other != name and not os.path.exists(f"{directory}/{name}") and os.path.exists(f"{directory}/{other}") else name


def settings(resources: Mapping[str, Any], *, v2: bool) -> list[tuple[str, str, str]]:
    """(controller, file, value) in the order to write them; memory and devices, which depend on what is there, are left out."""
    found: list[tuple[str, str, str]] = []
    cpu: Mapping[str, Any] = resources.get("cpu") or {}
    if (shares := cpu.get("shares")) is not None and shares > 0:
        found.append(("cpu", "cpu.weight", str(cpu_weight(shares))) if v2 else ("cpu", "cpu.shares", str(shares)))
    quota, period = cpu.get("quota"), cpu.get("period")
    if v2 and (quota or period):
        found.append(("cpu", "cpu.max", f"{'max' if not quota or quota < 0 else quota} {period or 100000}"))
    elif not v2:
        found += [("cpu", "cpu.cfs_period_us", str(period))] if period else []
        found += [("cpu", "cpu.cfs_quota_us", str(quota))] if quota else []
    for key, name, newer in (
        ("burst", "cpu.cfs_burst_us", "cpu.max.burst"),
        ("idle", "cpu.idle", "cpu.idle"),
        ("realtimePeriod", "cpu.rt_period_us", ""),
        ("realtimeRuntime", "cpu.rt_runtime_us", ""),
    ):
        if cpu.get(key) is not None:
            if v2 and not newer:
                raise NotImplementedError(f"cgroup v2 has no linux.resources.cpu.{key}")
            found.append(("cpu", newer if v2 else name, str(cpu[key])))
    for key in ("cpus", "mems"):
        if cpu.get(key):
            found.append(("cpuset", f"cpuset.{key}", str(cpu[key])))
    if (pids := (resources.get("pids") or {}).get("limit")) is not None:
        found.append(("pids", "pids.max", "max" if pids <= 0 else str(pids)))
    found += _block(resources.get("blockIO") or {}, v2=v2)
    for page in resources.get("hugepageLimits") or ():
        name = f"hugetlb.{page['pageSize']}.{'max' if v2 else 'limit_in_bytes'}"
        found.append(("hugetlb", name, str(page["limit"])))
    found += _network(resources.get("network") or {}, v2=v2)
    for device, limits in (resources.get("rdma") or {}).items():
        names = (("hca_handle", limits.get("hcaHandles")), ("hca_object", limits.get("hcaObjects")))
        found.append(("rdma", "rdma.max", " ".join([device, *(f"{name}={value}" for name, value in names if value is not None)])))
    if not v2 and resources.get("unified"):
        raise NotImplementedError("linux.resources.unified needs cgroup v2")
    if v2:
        found += [("unified", name, str(value)) for name, value in (resources.get("unified") or {}).items() if "/" not in name]
    return found


def cpu_weight(shares: int) -> int:
    """cpu.weight (1..10000) for cpu.shares (2..262144), as the OCI runtimes map it."""
    return 1 + ((min(max(shares, 2), 262144) - 2) * 9999) // 262142


def freeze(found: Hierarchies, path: str, *, frozen: bool) -> None:
    """Stop or continue every process in the group; returns when it is so.  Raises TimeoutError after 10 s."""
    directory = found.directory("freezer", path)
    if directory is None:
        raise NotImplementedError("this machine has no freezer cgroup")
    if found.v2:
        name, value, status, wanted = "cgroup.freeze", str(int(frozen)), "cgroup.events", f"frozen {int(frozen)}"
    else:
        name = status = "freezer.state"
        value = wanted = "FROZEN" if frozen else "THAWED"
    deadline = time.monotonic() + 10
    while True:
        _write(f"{directory}/{name}", value)
        if wanted in _read(f"{directory}/{status}"):
            return
        if time.monotonic() > deadline:
            raise TimeoutError(errno.ETIMEDOUT, "the kernel does not freeze the group", directory)
        time.sleep(0.002)


def is_frozen(found: Hierarchies, path: str) -> bool:
    """Whether the group is frozen, or about to be; a group that is gone is not."""
    directory = found.directory("freezer", path)
    if directory is None or not path:
        return False
    if found.v2:
        return _try(f"{directory}/cgroup.freeze").strip() == "1"
    return _try(f"{directory}/freezer.state").strip() in ("FROZEN", "FREEZING")


def processes(found: Hierarchies, path: str) -> list[int]:
    """Pids in the group, as this pid namespace numbers them."""
    directory = found.directory("pids", path) or (found.directories(path) or [""])[0]
    return [int(pid) for pid in _read(f"{directory}/cgroup.procs").split()]


def children(found: Hierarchies, path: str) -> set[str]:
    """Names of the groups directly below ``path``, in any hierarchy."""
    names: set[str] = set()
    for directory in found.directories(path):
        try:
            with os.scandir(directory) as entries:
                names.update(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        except FileNotFoundError:
            continue
    return names


def end(found: Hierarchies, path: str) -> bool:
    """Kill every process in the group and remove it; absent is success.  False when the kernel keeps one of them."""
    if not found.v2 and (freezer := found.directory("freezer", path)):
        with suppress(OSError):
            _write(f"{freezer}/freezer.state", "THAWED")  # v1 keeps what is frozen even from SIGKILL
    for _ in range(_KILL_ROUNDS):
        try:
            pids = processes(found, path)
        except FileNotFoundError:
            break
        if not pids:
            break
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)
    return remove(found, path)


def oom_kills(found: Hierarchies, path: str) -> int:
    """How many processes of the group the OOM killer took."""
    directory = found.directory("memory", path)
    if directory is None:
        return 0
    try:
        text = _read(f"{directory}/{'memory.events' if found.v2 else 'memory.oom_control'}")
    except OSError:
        return 0
    return _flat(text).get("oom_kill", 0)


def remove(found: Hierarchies, path: str) -> bool:
    """Remove the group everywhere, with groups below it; absent is success.  False when processes in it keep it for now."""
    removed = True
    for directory in found.directories(path):
        removed = _remove(directory) and removed
    return removed


def remove_elsewhere(path: str, mountinfo: str = "/proc/self/mountinfo") -> None:
    """Remove the group from the hierarchies that `find` leaves out, where others make groups too: named ones, and a v2 beside v1."""
    with open(mountinfo, encoding="utf-8", errors="surrogateescape") as file:
        lines = [line.partition(" - ") for line in file]
    mounts = [(left.split(" ")[4], *right.split(" ", 2)[::2]) for left, _, right in lines]
    controlled = any(kind == "cgroup" for _, kind, _ in mounts)
    for target, kind, options in mounts:
        if (kind == "cgroup" and "name=" in options) or (kind == "cgroup2" and controlled):
            _remove(f"{target}/{path.lstrip('/')}")


def _remove(directory: str) -> bool:
    for _ in range(50):
        try:
            os.rmdir(directory)
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                raise
            with suppress(FileNotFoundError), os.scandir(directory) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        _remove(entry.path)
            time.sleep(0.001)
        else:
            return True
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a group has used and may use; 0 limits mean none.  ``blkio``: (major, minor, operation, bytes)."""

    memory_bytes: int = 0
    memory_max_bytes: int = 0
    memory_limit_bytes: int = 0
    memory_stat: Mapping[str, int]
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


def usage(found: Hierarchies, path: str) -> Usage:
    """Read the group's counters; what has no file reads 0.  Raises FileNotFoundError when the group is gone."""
    if not any(os.path.isdir(directory) for directory in found.directories(path)):
        raise FileNotFoundError(errno.ENOENT, "no such cgroup", path)
    return _usage_v2(found, path) if found.v2 else _usage_v1(found, path)


def _usage_v1(found: Hierarchies, path: str) -> Usage:
    memory, cpu, account = (found.directory(name, path) or "/nonexistent" for name in ("memory", "cpu", "cpuacct"))
    pids, blkio = (found.directory(name, path) or "/nonexistent" for name in ("pids", "blkio"))
    times = _flat(_try(f"{account}/cpuacct.stat"))
    stat = _flat(_try(f"{cpu}/cpu.stat"))
    tick = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    ceiling = _number(_try(f"{memory}/memory.limit_in_bytes"))
    return Usage(
        memory_bytes=_number(_try(f"{memory}/memory.usage_in_bytes")),
        memory_max_bytes=_number(_try(f"{memory}/memory.max_usage_in_bytes")),
        memory_limit_bytes=0 if ceiling >= 1 << 62 else ceiling,
        memory_stat=_flat(_try(f"{memory}/memory.stat")),
        cpu_ns=_number(_try(f"{account}/cpuacct.usage")),
        cpu_user_ns=times.get("user", 0) * tick,
        cpu_system_ns=times.get("system", 0) * tick,
        cpu_per_core_ns=tuple(int(one) for one in _try(f"{account}/cpuacct.usage_percpu").split()),
        periods=stat.get("nr_periods", 0),
        throttled_periods=stat.get("nr_throttled", 0),
        throttled_ns=stat.get("throttled_time", 0),
        pids=_number(_try(f"{pids}/pids.current")),
        pids_limit=_number(_try(f"{pids}/pids.max")),
        blkio=_blkio_v1(_try(f"{blkio}/blkio.throttle.io_service_bytes")),
        blkio_operations=_blkio_v1(_try(f"{blkio}/blkio.throttle.io_serviced")),
    )


def _usage_v2(found: Hierarchies, path: str) -> Usage:
    directory = found.directory("memory", path)
    stat = _flat(_try(f"{directory}/cpu.stat"))
    return Usage(
        memory_bytes=_number(_try(f"{directory}/memory.current")),
        memory_max_bytes=_number(_try(f"{directory}/memory.peak")),
        memory_limit_bytes=_number(_try(f"{directory}/memory.max")),
        memory_stat=_flat(_try(f"{directory}/memory.stat")),
        cpu_ns=stat.get("usage_usec", 0) * 1000,
        cpu_user_ns=stat.get("user_usec", 0) * 1000,
        cpu_system_ns=stat.get("system_usec", 0) * 1000,
        periods=stat.get("nr_periods", 0),
        throttled_periods=stat.get("nr_throttled", 0),
        throttled_ns=stat.get("throttled_usec", 0) * 1000,
        pids=_number(_try(f"{directory}/pids.current")),
        pids_limit=_number(_try(f"{directory}/pids.max")),
        blkio=_blkio_v2(_try(f"{directory}/io.stat")),
    )


def _blkio_v1(text: str) -> tuple[tuple[int, int, str, int], ...]:
    rows = [line.split() for line in text.splitlines()]
    return tuple((*_device(row[0]), row[1], int(row[2])) for row in rows if len(row) == 3)


def _blkio_v2(text: str) -> tuple[tuple[int, int, str, int], ...]:
    found = []
    for line in text.splitlines():
        device, *pairs = line.split()
        values = dict(pair.split("=") for pair in pairs)
        for name, operation in (("rbytes", "Read"), ("wbytes", "Write")):
            found.append((*_device(device), operation, int(values.get(name, 0))))
    return tuple(found)


def _device(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(":")
    return int(major), int(minor)


def _limit_memory(found: Hierarchies, path: str, memory: Mapping[str, Any]) -> None:
    directory = found.directory("memory", path)
    wanted = {key: memory[key] for key in ("limit", "swap", "reservation", "swappiness") if memory.get(key) is not None}
    if directory is None:
        if wanted:
            raise NotImplementedError("this machine has no memory cgroup")
        return
    if found.v2:
        _limit_memory_v2(directory, wanted)
        return
    names = {"limit": "memory.limit_in_bytes", "swap": "memory.memsw.limit_in_bytes"}
    order = ["limit", "swap"]
    swap_file = f"{directory}/{names['swap']}"
    if "swap" in wanted and not os.path.exists(swap_file):
        order.remove("swap")  # no swap accounting in this kernel
    elif "swap" in wanted and "limit" in wanted and _number(_read(swap_file)) < wanted["limit"]:
        order.reverse()  # memory + swap may never be below memory
    for key in order:
        if key in wanted and wanted[key] != 0:
            _write(f"{directory}/{names[key]}", str(wanted[key]))
    if wanted.get("reservation"):
        _write(f"{directory}/memory.soft_limit_in_bytes", str(wanted["reservation"]))
    if wanted.get("swappiness") is not None:
        _write(f"{directory}/memory.swappiness", str(wanted["swappiness"]))
    if memory.get("disableOOMKiller"):
        _write(f"{directory}/memory.oom_control", "1")


def _limit_memory_v2(directory: str, wanted: Mapping[str, int]) -> None:
    ceiling = wanted.get("limit", 0)
    if (swap := wanted.get("swap", 0)) and os.path.exists(f"{directory}/memory.swap.max"):
        _write(f"{directory}/memory.swap.max", "max" if swap < 0 else str(max(swap - max(ceiling, 0), 0)))
    if ceiling:
        _write(f"{directory}/memory.max", "max" if ceiling < 0 else str(ceiling))
    if low := wanted.get("reservation", 0):
        _write(f"{directory}/memory.low", "max" if low < 0 else str(low))


def _limit_devices(found: Hierarchies, path: str, rules: Any) -> None:
    directory = found.directory("devices", path)
    if directory is None:
        return
    for rule in rules:
        kind = rule.get("type") or "a"
        numbers = ":".join("*" if rule.get(key) is None or rule[key] < 0 else str(rule[key]) for key in ("major", "minor"))
        text = "a" if kind == "a" else f"{kind} {numbers} {rule.get('access') or 'rwm'}"
        _write(f"{directory}/devices.{'allow' if rule.get('allow') else 'deny'}", text)


def _block(block: Mapping[str, Any], *, v2: bool) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = []
    if v2 and (block.get("leafWeight") or any(one.get("leafWeight") for one in block.get("weightDevice") or ())):
        raise NotImplementedError("cgroup v2 has no linux.resources.blockIO.leafWeight")
    if leaf := block.get("leafWeight"):
        found.append(("blkio", "blkio.leaf_weight", str(leaf)))
    if weight := block.get("weight"):
        found.append(("io", "io.bfq.weight", str(weight)) if v2 else ("blkio", "blkio.weight", str(weight)))
    for device in block.get("weightDevice") or ():
        if device.get("leafWeight"):
            found.append(("blkio", "blkio.leaf_weight_device", f"{device['major']}:{device['minor']} {device['leafWeight']}"))
        if not device.get("weight"):
            continue
        text = f"{device['major']}:{device['minor']} {device['weight']}"
        found.append(("io", "io.bfq.weight", text) if v2 else ("blkio", "blkio.weight_device", text))
    names = {
        "throttleReadBpsDevice": ("blkio.throttle.read_bps_device", "rbps"),
        "throttleWriteBpsDevice": ("blkio.throttle.write_bps_device", "wbps"),
        "throttleReadIOPSDevice": ("blkio.throttle.read_iops_device", "riops"),
        "throttleWriteIOPSDevice": ("blkio.throttle.write_iops_device", "wiops"),
    }
    for key, (name, short) in names.items():
        for device in block.get(key) or ():
            number = f"{device['major']}:{device['minor']}"
            found.append(("io", "io.max", f"{number} {short}={device['rate']}") if v2 else ("blkio", name, f"{number} {device['rate']}"))
    return found


def _io_weight(value: str) -> str:
    """io.weight (1..10000) for blkio.weight (10..1000), as the OCI runtimes map it; of "DEVICE WEIGHT" the last word."""
    *device, weight = value.split()
    return " ".join([*(device or ["default"]), str(1 + (int(weight) - 10) * 9999 // 990)])


def _network(network: Mapping[str, Any], *, v2: bool) -> list[tuple[str, str, str]]:
    found = []
    if network.get("classID") is not None:
        found.append(("net_cls", "net_cls.classid", str(network["classID"])))
    found += [("net_prio", "net_prio.ifpriomap", f"{one['name']} {one['priority']}") for one in network.get("priorities") or ()]
    if found and v2:
        raise NotImplementedError("cgroup v2 has no linux.resources.network")
    return found


def _create_v2(root: str, path: str) -> None:
    current = root
    for name in path.strip("/").split("/"):
        wanted = _read(f"{current}/cgroup.controllers").split()
        active = _read(f"{current}/cgroup.subtree_control").split()
        for controller in wanted:
            if controller in active:
                continue
            try:
                _write(f"{current}/cgroup.subtree_control", f"+{controller}")
            except OSError as error:
                if error.errno not in (errno.EBUSY, errno.EINVAL, errno.ENOENT, errno.EOPNOTSUPP):
                    raise  # a controller that cannot be handed down here limits nothing here; using it fails by name
        current = f"{current}/{name}"
        os.makedirs(current, 0o755, exist_ok=True)


def _inherit_cpuset(found: Hierarchies, path: str) -> None:
    """A new v1 cpuset group is empty and takes no process until it is given its parent's cpus and memory nodes."""
    root = found.v1.get("cpuset")
    if root is None:
        return
    above = root
    for name in path.strip("/").split("/"):
        current = f"{above}/{name}"
        for file in ("cpuset.cpus", "cpuset.mems"):
            if not _read(f"{current}/{file}").strip():
                _write(f"{current}/{file}", _read(f"{above}/{file}").strip())
        above = current


def _read(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # open() would cost several times the reading
    try:
        data = b""
        while chunk := os.read(fd, 1 << 16):
            data += chunk
    finally:
        os.close(fd)
    return data.decode(errors="replace")


def _try(path: str) -> str:
    try:
        return _read(path)
    except OSError:
        return ""


def _write(path: str, value: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    except OSError as error:
        raise OSError(error.errno, f"write {value!r}: {os.strerror(error.errno or 0)}", path) from None
    finally:
        os.close(fd)


def _flat(text: str) -> dict[str, int]:
    """A table of "name number" lines."""
    rows = (line.split() for line in text.splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].lstrip("-").isdigit()}


def _number(text: str) -> int:
    stripped = text.strip()
    return int(stripped) if stripped.isdigit() else 0
