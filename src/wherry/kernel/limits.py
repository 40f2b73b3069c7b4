"""What a control group may use: an OCI ``linux.resources`` object becomes values of files, on v1 and v2."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from typing import Any

from wherry.kernel import cgroup, controlfiles, devicefilter
from wherry.kernel.cgroup import Unsupported


def apply(found: cgroup.Hierarchies, path: str, resources: Mapping[str, Any]) -> None:
    """Apply an OCI ``linux.resources`` object; fields it does not have stay as they are.

    Raises OSError naming the file where the kernel refuses a value, Unsupported for a limit this machine has no controller for.
    """
    for controller, name, value in settings(resources, v2=found.v2 is not None):
        directory = found.directory(controller, path)
        if directory is None:
            raise Unsupported(f"this machine has no {controller} cgroup for {name}")
        if name == "io.bfq.weight" and not os.path.exists(f"{directory}/{name}"):
            name, value = "io.weight", _io_weight(value)
        controlfiles.write(f"{directory}/{_present(directory, name)}", value)
        if name == "cpu.shares":
            _check_shares(int(value), controlfiles.number(controlfiles.read(f"{directory}/{name}")))
    _limit_memory(found, path, resources.get("memory") or {})
    if not found.v2:
        _limit_devices(found, path, resources.get("devices") or ())
    elif rules := resources.get("devices"):
        devicefilter.attach(f"{found.v2}/{path.lstrip('/')}", devicefilter.assemble(rules))


def _check_shares(asked: int, got: int) -> None:
    """The kernel takes the nearest that it can do and says nothing; other runtimes refuse that."""
    if asked != got:
        word = "maximum" if asked > got else "minimum"
        raise OSError(errno.EINVAL, f"the {word} allowed cpu-shares is {got}")


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
                raise Unsupported(f"cgroup v2 has no linux.resources.cpu.{key}")
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
        raise Unsupported("linux.resources.unified needs cgroup v2")
    if v2:
        found += [("unified", name, str(value)) for name, value in (resources.get("unified") or {}).items() if "/" not in name]
    return found


def cpu_weight(shares: int) -> int:
    """cpu.weight (1..10000) for cpu.shares (2..262144), as the OCI runtimes map it."""
    return 1 + ((min(max(shares, 2), 262144) - 2) * 9999) // 262142


def _limit_memory(found: cgroup.Hierarchies, path: str, memory: Mapping[str, Any]) -> None:
    directory = found.directory("memory", path)
    wanted = {key: memory[key] for key in ("limit", "swap", "reservation", "swappiness") if memory.get(key) is not None}
    if directory is None:
        if wanted:
            raise Unsupported("this machine has no memory cgroup")
        return
    if wanted.get("limit") == -1:
        wanted.setdefault("swap", -1)  # without a limit of memory none of memory and swap makes sense
    if found.v2:
        _limit_memory_v2(directory, wanted)
        return
    names = {"limit": "memory.limit_in_bytes", "swap": "memory.memsw.limit_in_bytes"}
    order = ["limit", "swap"]
    swap_file = f"{directory}/{names['swap']}"
    if "swap" in wanted and not os.path.exists(swap_file):
        order.remove("swap")  # no swap accounting in this kernel
    elif "swap" in wanted and "limit" in wanted and not 0 <= wanted["limit"] <= controlfiles.number(controlfiles.read(swap_file)):
        order.reverse()  # memory + swap may never be below memory
    for key in order:
        if key in wanted and wanted[key] != 0:
            _write_memory_limit(directory, names[key], wanted[key])
    if wanted.get("reservation"):
        controlfiles.write(f"{directory}/memory.soft_limit_in_bytes", str(wanted["reservation"]))
    if wanted.get("swappiness") is not None:
        controlfiles.write(f"{directory}/memory.swappiness", str(wanted["swappiness"]))
    if memory.get("disableOOMKiller"):
        controlfiles.write(f"{directory}/memory.oom_control", "1")


def _write_memory_limit(directory: str, name: str, limit: int) -> None:
    try:
        controlfiles.write(f"{directory}/{name}", str(limit))
    except OSError as error:
        if error.errno != errno.EBUSY or name != "memory.limit_in_bytes":
            raise
        usage, peak = (controlfiles.read(f"{directory}/memory.{what}_in_bytes").strip() for what in ("usage", "max_usage"))
        message = f"unable to set memory limit to {limit} (current usage: {usage}, peak usage: {peak})"  # as runc
        raise OSError(errno.EBUSY, message) from None


def _limit_memory_v2(directory: str, wanted: Mapping[str, int]) -> None:
    ceiling = wanted.get("limit", 0)
    if (swap := wanted.get("swap", 0) or min(ceiling, 0)) and os.path.exists(f"{directory}/memory.swap.max"):
        controlfiles.write(f"{directory}/memory.swap.max", "max" if swap < 0 else str(max(swap - max(ceiling, 0), 0)))
    if ceiling:
        controlfiles.write(f"{directory}/memory.max", "max" if ceiling < 0 else str(ceiling))
    if low := wanted.get("reservation", 0):
        controlfiles.write(f"{directory}/memory.low", "max" if low < 0 else str(low))


def _limit_devices(found: cgroup.Hierarchies, path: str, rules: Any) -> None:
    directory = found.directory("devices", path)
    if directory is None:
        return
    for rule in rules:
        kind = rule.get("type") or "a"
        numbers = ":".join("*" if rule.get(key) is None or rule[key] < 0 else str(rule[key]) for key in ("major", "minor"))
        text = "a" if kind == "a" else f"{kind} {numbers} {rule.get('access') or 'rwm'}"
        controlfiles.write(f"{directory}/devices.{'allow' if rule.get('allow') else 'deny'}", text)


def _block(block: Mapping[str, Any], *, v2: bool) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = []
    if v2 and (block.get("leafWeight") or any(one.get("leafWeight") for one in block.get("weightDevice") or ())):
        raise Unsupported("cgroup v2 has no linux.resources.blockIO.leafWeight")
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
        raise Unsupported("cgroup v2 has no linux.resources.network")
    return found
