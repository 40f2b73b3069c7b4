"""A container that is built from outside: a worker enters its namespaces, makes its mounts there, and comes back.

Its first process has no interpreter: it shares the worker's memory until it executes the program (`wherry.kernel.spawn`), and does itself
only what nobody can do for it. A forked interpreter would write to six hundred pages, each of which is copied then, to do the same. This is
for containers without hooks, terminal, user and time namespaces, labels, scheduling; others are made as a cold command makes them.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wherry.bundle import cradle
from wherry.bundle.cradle import EARLY, has_usual_namespaces
from wherry.bundle.written import Written, default_actions
from wherry.kernel import cgroup, credentials, mount, namespace, netns, process, spawn
from wherry.runtime import ahead, becoming, filters, mounting, plan, rehearsal
from wherry.runtime.becoming import Start
from wherry.runtime.calls import LIMIT
from wherry.runtime.failure import StartFailure
from wherry.runtime.steps import Key, Sandbox

_OWN = (
    *(("mnt", namespace.CLONE_NEWNS), ("net", namespace.CLONE_NEWNET), ("ipc", namespace.CLONE_NEWIPC)),
    ("uts", namespace.CLONE_NEWUTS),
)
_SIG_SETMASK = 2
_LEAST_MEMORY_BYTES = 1 << 20  # whom the kernel ends for less takes with him who shares his memory: the worker
_UNUSUAL = ("apparmorProfile", "selinuxLabel", "scheduler", "ioPriority", "terminal", "oomScoreAdj")
_UNUSUAL_OPTIONS = {"idmap", "ridmap", "tmpcopyup"}
_EXECVE = "execve"
_KINDS = ahead.KINDS - {"proc"} | {"sysfs"}  # which belong to the namespaces that a worker can be in


@dataclass(frozen=True, slots=True)
class _Expected:
    """A launch, what comes of it, the first process, and its file systems."""

    launch: Mapping[str, Any]
    planned: plan.Plan
    spawned: spawn.Spawned
    made: dict[Key, int]


class Home:
    """Where a worker belongs, to come back to."""

    def __init__(self) -> None:
        self._namespaces = [(os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC), kind) for name, kind in _OWN]
        self._root = os.open("/", os.O_PATH | os.O_CLOEXEC)

    def come_back(self, directory: int = -1) -> None:
        """``directory``: to be the working directory again, for who has been in another namespace of mounts."""
        for fd, kind in self._namespaces:
            namespace.setns(fd, kind)
        if directory >= 0:  # who enters a namespace of mounts is at its root
            os.fchdir(self._root)
            os.chroot(".")
            os.fchdir(directory)


class Builder:
    """A worker's.  `prepare` makes namespaces and file systems ready; then either `build` or `discard` is called."""

    def __init__(self, compiler: filters.Compiler) -> None:
        """``compiler``: what the worker knows of filters already.

        Raises OSError where there can be none: on another machine type, and with control groups of version 2 (a container's mount of those
        shows the group of who makes it).
        """
        if cgroup.find().v2:
            raise cgroup.Unsupported("on version 2 a first process enters its control group before it mounts that")
        self.compiler = compiler
        self._spawner = spawn.Spawner()
        self._home = Home()
        self._defaults = default_actions()
        self._bounding = credentials.bounding()
        self._permitted = credentials.capget()[1]
        self._likely: Mapping[str, Any] = {}
        self._expected: _Expected | None = None

    @property
    def pid(self) -> int:
        """The first process of the next container."""
        return self._ready().spawned.pid

    def prepare(self) -> Builder:
        """Make ready for a container like the one before, or like most.  Returns itself."""
        namespace.unshare(EARLY & ~namespace.CLONE_NEWPID)
        netns.raise_loopback()
        try:
            self._expected = self._expect(self._likely)
        except (StartFailure, OSError):  # whoever wants it again will learn why
            self._expected = self._expect({})
        return self

    def _expect(self, launch: Mapping[str, Any]) -> _Expected:
        planned = plan.make(launch, bundle=True) if launch else rehearsal.plan_start()
        spawned = self._spawner.spawn(namespace.CLONE_NEWPID)
        try:
            made = ahead.make(planned, _KINDS)
            for step in _proc_of(planned):
                made[step.key] = _make_proc(spawned, step)
        except OSError:
            _end(spawned)
            raise
        return _Expected(launch, planned, spawned, made)

    def _ready(self) -> _Expected:
        assert self._expected is not None
        return self._expected

    def suits(self, config: Mapping[str, Any]) -> bool:
        """Whether it can build this container."""
        wanted = config["process"]
        mounts = config.get("mounts") or ()
        kinds = [one.get("type") for one in mounts]
        memory = (config["linux"].get("resources") or {}).get("memory") or {}
        return (
            not 0 < (memory.get("limit") or 0) < _LEAST_MEMORY_BYTES
            and has_usual_namespaces(config["linux"])
            and not any(config.get(field) or config["linux"].get(field) for field in ("hooks", "personality"))
            and not any(wanted.get(field) not in (None, False) for field in _UNUSUAL)
            and not any(one.get("uidMappings") or _UNUSUAL_OPTIONS & set(one.get("options") or ()) for one in mounts)
            and kinds.count("proc") == 1
            and not any("\0" in text for text in (*wanted["args"], *(wanted.get("env") or ())))
        )

    def discard(self) -> None:
        """It is not needed this time."""
        expected = self._ready()
        self._expected = None
        _end(expected.spawned)
        for tree in expected.made.values():
            os.close(tree)
        self._home.come_back()

    def build(self, launch: Mapping[str, Any], start: Start, found: cgroup.Hierarchies) -> Built:
        """The process, in a container that is complete.  Its control group is there.  Raises StartFailure, OSError."""
        config, expected = launch["config"], self._ready()
        self._expected = None
        group = config["linux"]["cgroupsPath"]
        self._likely = {**launch, "config": {**config, "linux": {**config["linux"], "cgroupsPath": ""}}}
        kept = _open_descriptors() - set(expected.made.values())
        directory = os.open(".", os.O_PATH | os.O_CLOEXEC)
        umask = os.umask(0)
        kept.add(expected.spawned.pidfd)
        built = None
        try:
            known = self._likely == expected.launch
            planned = plan.in_group(expected.planned if known else plan.make(self._likely, bundle=True), group)
            namespace.unshare(namespace.CLONE_NEWNS)  # shows the mounts of the moment
            mounts = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
            trees = ahead.suiting(expected.made, planned)
            for step in _proc_of(planned):
                if step.key not in trees:
                    trees[step.key] = _make_proc(expected.spawned, step)
            before = spawn.Table()
            calls = Written(before, self._defaults, self._permitted, self._bounding)
            becoming.carry_out(planned, start, Sandbox(found, calls, ahead=trees))
            after, program = self._become(start, calls)
            root = os.stat("/")
            if expected.spawned.detach(mounts, before) != (root.st_dev, root.st_ino):
                raise StartFailure(128, "the container's first process is not in its container")
            built = Built(expected.spawned, after, config["process"]["args"][0], program)
        except spawn.Refused as refused:
            raise _failure(refused) from None
        finally:
            if built is None:
                _end(expected.spawned)
            self._home.come_back(directory)
            os.umask(umask)
            process.prctl(process.PR_SET_DUMPABLE, 0)  # a change of ids, also of who shares our memory, sets it to fs.suid_dumpable
            kept |= built.descriptors() if built else set()
            for fd in _open_descriptors() - kept:
                os.close(fd)
        return built

    def _become(self, start: Start, calls: Written) -> tuple[spawn.Table, str]:
        """Write the way to the program; the table of the calls after the gate, and the last file that they try to execute."""
        program = becoming.become(calls, start)
        files = list(program.files())
        becoming.filter_last(calls, start)
        after = spawn.Table()
        after.add("rt_sigprocmask", _SIG_SETMASK, bytes(8), 0, 8)
        arguments = after.strings([os.fsencode(one) for one in program.arguments])
        environment = after.strings([os.fsencode(f"{key}={value}") for key, value in program.environment.items()])
        for file in files:  # the user may not be allowed to execute what we found
            after.add("execve", os.fsencode(file) + b"\0", arguments, environment, what=_EXECVE, optional=file != files[-1])
        return after, files[-1]


Reserve = cradle.Cradle | Builder  # what a worker has ready ahead of a container


class Built:
    """``pid`` and ``pidfd`` of a process that waits, in its container, to become the program."""

    def __init__(self, spawned: spawn.Spawned, rest: spawn.Table, name: str, program: str) -> None:
        """``rest``: the calls that are to be made last; ``name``: of the program as configured, ``program`` as found."""
        self.pid, self.pidfd = spawned.pid, spawned.pidfd
        self._spawned, self._rest, self._name, self._program = spawned, rest, name, program

    def descriptors(self) -> set[int]:
        return {self.pidfd, *self._spawned.descriptors()}

    def give_up(self) -> None:
        """It is not to go on: its end is the caller's to bring about."""
        self._spawned.close()

    def release(self) -> None:
        """Let it become the program, and wait until it has.  Raises StartFailure."""
        try:
            self._spawned.release(self._rest)
        except spawn.Refused as refused:
            number = refused.errno or 0
            if refused.what != _EXECVE:
                raise _failure(refused) from None
            if number == errno.EACCES:
                why = "permission denied" if "/" in self._name else "executable file not found in $PATH"
                raise StartFailure(126 if "/" in self._name else 127, f'exec: "{self._name}": {why}') from None
            text = os.strerror(number)  # it has ended as a program does that cannot be executed
            os.write(2, f"exec {self._program}: {text[:1].lower()}{text[1:]}\n".encode(errors="surrogateescape"))


def _failure(refused: spawn.Refused) -> StartFailure:
    is_limit = refused.what.startswith(LIMIT) and refused.errno == errno.EINVAL
    return StartFailure(128, f"{refused.what}: {'current limit exceeds maximum limit' if is_limit else refused.strerror}")


def _proc_of(planned: plan.Plan) -> list[mounting.Mount]:
    """The mounts of what belongs to the pid namespace of its maker."""
    return [step for step in planned.steps if isinstance(step, mounting.Mount) and step.kind == "proc"]


def _make_proc(spawned: spawn.Spawned, step: mounting.Mount) -> int:
    """The file system as a detached mount, made by the first process: we are in another pid namespace, and stay there."""
    context = os.open("/", os.O_PATH | os.O_CLOEXEC)  # to know which descriptors come next
    tree = os.open("/", os.O_PATH | os.O_CLOEXEC)
    os.close(context)
    os.close(tree)
    what = step.describe()
    table = spawn.Table()
    table.add("fsopen", b"proc\0", 1, what=what)
    for key, value in (("source", step.source), *step.options.data):
        flag = mount.FSCONFIG_SET_FLAG if value is None else mount.FSCONFIG_SET_STRING
        table.add("fsconfig", context, flag, key.encode() + b"\0", 0 if value is None else value.encode() + b"\0", 0, what=what)
    table.add("fsconfig", context, mount.FSCONFIG_CMD_CREATE, 0, 0, 0, what=what)
    table.add("fsmount", context, 1, step.options.add, what=what)
    table.add("close", context)
    spawned.perform(table)
    return tree


def _end(spawned: spawn.Spawned) -> None:
    process.end(spawned.pidfd)
    spawned.close()


def _open_descriptors() -> set[int]:
    """Those of this process, and perhaps the one that the listing had."""
    found = set()
    for number in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):
            os.fstat(number)
            found.add(number)
    return found
