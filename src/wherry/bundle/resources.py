"""``pause``, ``resume``, ``ps``, ``update``, ``events``: a running container through its control group."""

from __future__ import annotations

import json
import os
import pwd
import re
import select
import sys
import time
from collections.abc import Mapping
from typing import Any

from wherry.bundle import bundles, shape, states
from wherry.bundle.failures import Failure
from wherry.bundle.states import State
from wherry.kernel import cgroup, limits, usage
from wherry.runtime.failure import words

_CPU = {
    "cpu-period": "period",
    "cpu-quota": "quota",
    "cpu-burst": "burst",
    "cpu-share": "shares",
    "cpu-rt-period": "realtimePeriod",
    "cpu-rt-runtime": "realtimeRuntime",
    "cpu-idle": "idle",
    "cpuset-cpus": "cpus",
    "cpuset-mems": "mems",
}
_MEMORY = {"memory": "limit", "memory-reservation": "reservation", "memory-swap": "swap"}
_SIZE = re.compile(r"(-1|\d+(?:\.\d+)?) ?(?:([kmgtp])i?)?b?", re.IGNORECASE)
_UNITS = {"s": 1.0, "ms": 0.001, "m": 60.0, "h": 3600.0}


def pause(root: str, ident: str) -> None:
    with states.opened(root, ident) as place:
        state, found = place.state(), cgroup.find()
        current = states.status(place, state, found)
        if current not in ("running", "created"):
            raise Failure(f"container not running: {current}")
        cgroup.freeze(found, state.cgroups_path, frozen=True)


def resume(root: str, ident: str) -> None:
    with states.opened(root, ident) as place:
        state, found = place.state(), cgroup.find()
        if not states.is_alive(state) or not cgroup.is_frozen(found, state.cgroups_path):
            raise Failure("container not paused")
        cgroup.freeze(found, state.cgroups_path, frozen=False)


def processes(root: str, ident: str, form: str) -> str:
    """The container's processes: a JSON list of ids, or a table."""
    state = states.found(root, ident).state()
    try:
        pids = cgroup.processes(cgroup.find(), state.cgroups_path)  # who shares the host's pids may outlive the first
    except FileNotFoundError:
        pids = []
    if form == "json":
        return json.dumps(pids)
    if form != "table":
        raise Failure(f"invalid format option: {form}")
    lines = [f"{'UID':8} {'PID':>8} {'PPID':>8} {'STIME':5} {'TIME':>8} CMD"]
    lines += [row for pid in pids if (row := _row(pid))]
    return "\n".join(lines)


def update(root: str, ident: str, options: Mapping[str, Any]) -> None:
    """Change limits.  Raises Failure naming what the kernel refuses."""
    if options["l3-cache-schema"] or options["mem-bw-schema"]:
        raise Failure("--l3-cache-schema and --mem-bw-schema are not supported: linux.intelRdt is not")
    wanted = _read(options["resources"]) if options["resources"] else _from_flags(options)
    with states.opened(root, ident) as place:
        state, found = place.state(), cgroup.find()
        if not states.is_alive(state):
            raise Failure("container not running")
        bundles.check_resources(wanted, found)
        if wanted.get("devices"):
            wanted["devices"] = bundles.device_rules(wanted["devices"])
        config = place.config()
        before = config["linux"].get("resources") or {}
        merged = {name: {**(before.get(name) or {}), **value} if isinstance(value, dict) else value for name, value in wanted.items()}
        try:
            limits.apply(found, state.cgroups_path, _whole(wanted, merged) if found.v2 else wanted)
        except (OSError, ValueError) as error:
            raise Failure(words(error)) from None
        config["linux"]["resources"] = {**before, **merged}
        place.write_config(config)


def events(root: str, ident: str, options: Mapping[str, Any]) -> None:
    """Print the container's use once, or every interval until it ends; and each time the kernel ran out of memory for it."""
    state, found = states.found(root, ident).state(), cgroup.find()
    if not states.is_alive(state):
        raise Failure(f"container with id {ident} is not running")
    if options["stats"]:
        _print({"type": "stats", "id": ident, "data": statistics(state, found)})
        return
    interval_s = _seconds(options["interval"])
    kills = cgroup.oom_kills(found, state.cgroups_path)
    due = 0.0
    with states.process(state) as pidfd:
        waiting = select.poll()
        waiting.register(pidfd, select.POLLIN)
        while True:
            if (now := cgroup.oom_kills(found, state.cgroups_path)) > kills:
                _print({"type": "oom", "id": ident})
                kills = now
            if time.monotonic() >= due:
                _print({"type": "stats", "id": ident, "data": statistics(state, found)})
                due = time.monotonic() + interval_s
            if waiting.poll(1000 * min(1.0, max(due - time.monotonic(), 0.01))):
                return


def statistics(state: State, found: cgroup.Hierarchies) -> dict[str, Any]:
    """What containerd and Podman read of ``events``."""
    try:
        used = usage.read(found, state.cgroups_path)
    except FileNotFoundError:
        raise Failure("container not running") from None
    return {
        "cpu": {
            "usage": {
                "total": used.cpu_ns,
                "percpu": list(used.cpu_per_core_ns),
                "kernel": used.cpu_system_ns,
                "user": used.cpu_user_ns,
            },
            "throttling": {"periods": used.periods, "throttledPeriods": used.throttled_periods, "throttledTime": used.throttled_ns},
        },
        "memory": {
            "cache": used.memory_stat.get("cache", used.memory_stat.get("file", 0)),
            "usage": {"limit": used.memory_limit_bytes, "usage": used.memory_bytes, "max": used.memory_max_bytes},
            "raw": dict(used.memory_stat),
        },
        "pids": {"current": used.pids, "limit": used.pids_limit},
        "blkio": {
            "ioServiceBytesRecursive": [
                {"major": major, "minor": minor, "op": operation, "value": value} for major, minor, operation, value in used.blkio
            ]
        },
    }


def _print(event: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def _row(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            text = file.read()
        with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
            command = " ".join(file.read().split("\0")).strip()
        uid = os.stat(f"/proc/{pid}").st_uid
    except (FileNotFoundError, ProcessLookupError):
        return ""
    fields = text[text.rindex(")") + 2 :].split()
    tick = os.sysconf("SC_CLK_TCK")
    used = (int(fields[11]) + int(fields[12])) // tick
    began = time.localtime(time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + int(fields[19]) / tick)
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    shown = command or f"[{text[text.index('(') + 1 : text.rindex(')')]}]"
    spent = f"{used // 3600:02}:{used // 60 % 60:02}:{used % 60:02}"
    return f"{user:8} {pid:8} {fields[1]:>8} {time.strftime('%H:%M', began)} {spent:>8} {shown}"


def _read(path: str) -> dict[str, Any]:
    try:
        if path == "-":
            found = json.load(sys.stdin)
        else:
            with open(path, encoding="utf-8") as file:
                found = json.load(file)
    except (OSError, ValueError) as error:
        raise Failure(f"--resources {path}: {error}") from None
    try:
        checked: dict[str, Any] = shape.checked(found, shape.RESOURCES)
    except Failure as failure:
        raise Failure(f"--resources {path}: {failure.message}") from None
    return checked


def _from_flags(options: Mapping[str, Any]) -> dict[str, Any]:
    cpu = {key: options[flag] for flag, key in _CPU.items() if options[flag] is not None}
    memory = {key: _bytes(flag, options[flag]) for flag, key in _MEMORY.items() if options[flag] is not None}
    found: dict[str, Any] = {"cpu": cpu, "memory": memory}
    if options["pids-limit"] is not None:
        found["pids"] = {"limit": _number("pids-limit", options["pids-limit"])}
    if options["blkio-weight"] is not None:
        found["blockIO"] = {"weight": options["blkio-weight"]}
    if not any(found.values()):
        raise Failure("update: nothing to change")
    return found


def _whole(wanted: Mapping[str, Any], merged: Mapping[str, Any]) -> dict[str, Any]:
    """What is wanted, with what cgroup v2 has in one file, or counts from, with it."""
    found = dict(wanted)
    for name, pair in (("cpu", {"quota", "period"}), ("memory", {"limit", "swap"})):
        if pair & (wanted.get(name) or {}).keys() and wanted[name].get("limit") != -1:
            found[name] = {**{key: merged[name][key] for key in pair & merged[name].keys()}, **wanted[name]}
    return found


def _bytes(flag: str, text: str) -> int:
    """A number, or a size like 50M or 1.5GiB, as runc takes it."""
    size = _SIZE.fullmatch(text)
    if size is None:
        raise Failure(f"invalid value for {flag}: {text!r}")
    factor = 1024 ** " kmgtp".index((size[2] or " ").lower())
    return int(size[1]) * factor if "." not in size[1] else int(float(size[1]) * factor)


def _number(flag: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise Failure(f"invalid value for {flag}: {text!r}") from None


def _seconds(text: str) -> float:
    for unit in sorted(_UNITS, key=len, reverse=True):
        number = text.removesuffix(unit)
        if number != text:
            try:
                if (value := float(number) * _UNITS[unit]) > 0:
                    return value
            except ValueError:
                break
    raise Failure(f"--interval {text} is not a time like 5s or 500ms")
