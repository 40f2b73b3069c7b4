"""Control groups, v1, v2 and both: where they are mounted, make, join, freeze, end, remove.

A container's group has one path below every hierarchy. What it may use: `limits`; what it has used: `usage`.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from wherry.kernel import controlfiles

_KILL_ROUNDS = 100
_V1 = ("memory", "cpu", "cpuacct", "cpuset", "pids", "devices", "freezer", "blkio", "hugetlb", "net_cls", "net_prio", "perf_event", "rdma")


class Unsupported(OSError):
    """What this machine's control groups do not have."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.EOPNOTSUPP, message)


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


def lacking(found: Hierarchies) -> str:
    """Why no container could be made here, "" where they can: without a controller of devices a container has all of the machine's."""
    roots = [found.v2] if found.v2 else list(dict.fromkeys(found.v1.values()))
    if not roots:
        return "no control groups are mounted: mount -t cgroup2 cgroup2 /sys/fs/cgroup"
    for root in roots:
        if os.statvfs(root).f_flag & os.ST_RDONLY:
            return f"control groups are mounted read-only: {root}: a container needs one of its own"
    there = {*controlfiles.read(f"{found.v2}/cgroup.controllers").split(), "devices"} if found.v2 else found.v1.keys()
    missing = [name for name in ("devices", "pids") if name not in there]
    return f"controllers of control groups are not mounted: {', '.join(missing)}" if missing else ""


def vacate_root(found: Hierarchies) -> bool:
    """Move what runs in the root of this cgroup namespace into a group ``init`` below it, when that is needed; whether it was.

    In a container the root is a group as any other, which cannot hand controllers down while it has processes; the machine's own can.
    """
    root = found.v2
    if root is None or not os.path.exists(f"{root}/cgroup.type") or not _missing_below(root):
        return False
    pids = controlfiles.read(f"{root}/cgroup.procs").split()
    if not pids or "0" in pids:  # one of another pid namespace has no number here
        return False
    os.makedirs(f"{root}/init", 0o755, exist_ok=True)
    for _ in range(100):  # they may fork meanwhile
        for pid in pids:
            with suppress(ProcessLookupError):
                controlfiles.write(f"{root}/init/cgroup.procs", pid)
        pids = controlfiles.read(f"{root}/cgroup.procs").split()
        if not pids:
            break
    return True


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
    join_directories(found, found.directories(path))


def join_directories(found: Hierarchies, directories: Iterable[str]) -> None:
    """`join` for groups that have not one path."""
    for directory in directories:
        controlfiles.write(f"{directory}/{'cgroup.procs' if found.v2 else 'tasks'}", "0")


def join_beside(found: Hierarchies, path: str, pidfd: int) -> None:
    """`join` for one more process of a container, whose first is ``pidfd``.

    On v2 that one may have made groups below its own, moved into one and given controllers to them, as systemd does: the group itself
    takes no process then, and the new one goes where the first is.
    """
    try:
        join(found, path)
    except OSError as error:
        if not found.v2 or error.errno not in (errno.EBUSY, errno.EOPNOTSUPP):
            raise
        pid = controlfiles.read(f"/proc/self/fdinfo/{pidfd}").partition("\nPid:\t")[2].partition("\n")[0]
        lines = controlfiles.read(f"/proc/{pid}/cgroup").splitlines()
        join(found, next(line[3:] for line in lines if line.startswith("0::")))


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


def freeze(found: Hierarchies, path: str, *, frozen: bool) -> None:
    """Stop or continue every process in the group; returns when it is so.  Raises TimeoutError after 10 s, FileNotFoundError."""
    directory = found.directory("freezer", path)
    if directory is None:
        raise Unsupported("this machine has no freezer cgroup")
    if found.v2:
        name, value, status, wanted = "cgroup.freeze", str(int(frozen)), "cgroup.events", f"frozen {int(frozen)}"
    else:
        name = status = "freezer.state"
        value = wanted = "FROZEN" if frozen else "THAWED"
    deadline = time.monotonic() + 10
    while True:
        try:
            controlfiles.write(f"{directory}/{name}", value)
            if wanted in controlfiles.read(f"{directory}/{status}"):
                return
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV):  # the second while the file is open
                raise
            if frozen:
                raise FileNotFoundError(errno.ENOENT, "the group has ended", directory) from error
            return  # what was let go on has ended, and its group with it
        if time.monotonic() > deadline:
            raise TimeoutError(errno.ETIMEDOUT, "the kernel does not freeze the group", directory)
        time.sleep(0.002)


def is_frozen(found: Hierarchies, path: str) -> bool:
    """Whether the group is frozen, or about to be; a group that is gone is not."""
    directory = found.directory("freezer", path)
    if directory is None or not path:
        return False
    if found.v2:
        return controlfiles.read_or_nothing(f"{directory}/cgroup.freeze").strip() == "1"
    return controlfiles.read_or_nothing(f"{directory}/freezer.state").strip() in ("FROZEN", "FREEZING")


def processes(found: Hierarchies, path: str) -> list[int]:
    """Pids in the group and in those below it, as this pid namespace numbers them."""
    directory = found.directory("pids", path) or (found.directories(path) or [""])[0]
    return [*map(int, controlfiles.read(f"{directory}/cgroup.procs").split()), *_processes_below(directory)]


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
            controlfiles.write(f"{freezer}/freezer.state", "THAWED")  # v1 keeps what is frozen even from SIGKILL
    if found.v2:
        with suppress(OSError):  # before Linux 5.14 one by one
            controlfiles.write(f"{found.directory('', path)}/cgroup.kill", "1")
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
        text = controlfiles.read(f"{directory}/{'memory.events' if found.v2 else 'memory.oom_control'}")
    except OSError:
        return 0
    return controlfiles.table(text).get("oom_kill", 0)


def remove(found: Hierarchies, path: str) -> bool:
    """Remove the group everywhere, with groups below it; absent is success.  False when processes in it keep it for now."""
    removed = True
    for directory in found.directories(path):
        removed = _remove(directory) and removed
    return removed


def is_absent(found: Hierarchies, path: str) -> bool:
    """Whether a group is gone, or was never made: `create` and `rename` begin with the hierarchy that is looked at."""
    return not any(os.path.exists(directory) for directory in found.directories(path)[:1])


def remove_elsewhere(path: str, mountinfo: str = "/proc/self/mountinfo") -> None:
    """Remove the group from the hierarchies that `find` leaves out, where others make groups too: named ones, and a v2 beside v1."""
    with open(mountinfo, encoding="utf-8", errors="surrogateescape") as file:
        lines = [line.partition(" - ") for line in file]
    mounts = [(left.split(" ")[4], *right.split(" ", 2)[::2]) for left, _, right in lines]
    controlled = any(kind == "cgroup" for _, kind, _ in mounts)
    for target, kind, options in mounts:
        if (kind == "cgroup" and "name=" in options) or (kind == "cgroup2" and controlled):
            _remove(f"{target}/{path.lstrip('/')}")


def _processes_below(directory: str) -> list[int]:
    if os.stat(directory).st_nlink <= 2:  # no directory in it
        return []
    found: list[int] = []
    with os.scandir(directory) as entries:
        below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    for one in below:
        try:
            found += [*map(int, controlfiles.read(f"{one}/cgroup.procs").split()), *_processes_below(one)]
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EOPNOTSUPP):  # the last: its threads' processes are in a group above
                raise
    return found


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


def _create_v2(root: str, path: str) -> None:
    current = root
    for name in path.strip("/").split("/"):
        _hand_down(current)
        current = f"{current}/{name}"
        os.makedirs(current, 0o755, exist_ok=True)


def _missing_below(directory: str) -> list[str]:
    """The controllers that groups below a v2 group could have and do not."""
    active = controlfiles.read(f"{directory}/cgroup.subtree_control").split()
    return [name for name in controlfiles.read(f"{directory}/cgroup.controllers").split() if name not in active]


def _hand_down(directory: str) -> None:
    """Give groups below a v2 group every controller.  One that cannot be had here limits nothing here; using it fails by name."""
    missing = _missing_below(directory)
    if not missing:
        return
    try:
        controlfiles.write(f"{directory}/cgroup.subtree_control", " ".join(f"+{name}" for name in missing))
    except OSError as error:
        if error.errno == errno.EBUSY:
            return  # it has processes: what could go nevertheless would make the groups below ones for threads only
        if error.errno not in (errno.EINVAL, errno.ENOENT, errno.EOPNOTSUPP):
            raise
        for name in missing:
            with suppress(OSError):
                controlfiles.write(f"{directory}/cgroup.subtree_control", f"+{name}")


def _inherit_cpuset(found: Hierarchies, path: str) -> None:
    """A new v1 cpuset group is empty and takes no process until it is given its parent's cpus and memory nodes."""
    root = found.v1.get("cpuset")
    if root is None:
        return
    above = root
    for name in path.strip("/").split("/"):
        current = f"{above}/{name}"
        for file in ("cpuset.cpus", "cpuset.mems"):
            if not controlfiles.read(f"{current}/{file}").strip():
                controlfiles.write(f"{current}/{file}", controlfiles.read(f"{above}/{file}").strip())
        above = current
