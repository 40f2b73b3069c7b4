"""Mounts that nearly every container has, made before it is known for which: /proc with what hides parts of it, /dev, its control groups.

They stand in a mount namespace of the process that waits to be a container's first one, below a root of their own. A start moves them from
there to the container's root, with all that is mounted in them; what a container wants otherwise is made anew, and what it does not take
goes with that root. /sys is not among them: it belongs to the network namespace, which comes later.

The process itself waits where it came from, and its own namespace shows nothing of the host: what a container gets from there is what the
host has when it starts.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from wherry.kernel import cgroup, files, mount, namespace
from wherry.runtime import covers, devices, mounting
from wherry.runtime.failure import StartFailure
from wherry.runtime.plan import Plan
from wherry.runtime.steps import Sandbox, SetSysctls, Step

_SHARED_MEMORY, _DEV, _PROC, _CGROUPS = "/dev/shm", "/dev", "/proc", "/sys/fs/cgroup"
_PLACES = (_SHARED_MEMORY, _DEV, _PROC, _CGROUPS)  # what lies in another comes before it
_WITHIN = ("", "proc", "sysfs", "tmpfs", "devpts", "mqueue")  # types of mounts that take nothing of the host, or have taken it: binds
_ASIDE = "shm"  # where the first stands until it is known whether it is wanted like that: many want another size
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Place:
    """Move a tree of mounts under the container's root."""

    path: str
    tree: int
    made: Sandbox

    def describe(self) -> str:
        return f"put {self.path} in its place"

    def execute(self, sandbox: Sandbox) -> None:
        mount.move_onto(self.tree, mounting.open_target(sandbox.root_fd, self.path, directory=True, plain=self.path == _PROC))
        if self.path == _PROC:
            sandbox.proc_fd = self.made.proc_fd
        elif self.path == _DEV:
            sandbox.dev_fd, sandbox.pts_fd, sandbox.null_fd = self.made.dev_fd, self.made.pts_fd, self.made.null_fd


class Stage:
    """The trees, and the namespace they stand in."""

    def __init__(self, namespace_fd: int, made: Sandbox, steps: dict[str, list[object]]) -> None:
        """``steps``: by place, what was done."""
        self._namespace_fd = namespace_fd
        self._made = made
        self._steps = steps
        self._trees = {place: files.open_beneath(made.root_fd, place[1:], _DIRECTORY) for place in steps}
        if _SHARED_MEMORY in steps:
            mount.move_onto(self._trees[_SHARED_MEMORY], files.open_beneath(made.root_fd, _ASIDE, _DIRECTORY))

    def arrange(self, planned: Plan, *, in_group: bool) -> tuple[Step, ...] | None:
        """The steps of a plan that are left, to be done where the host's mounts are until `enter`.  None: it is not for this.

        ``in_group``: the control group that was made ahead is the container's. What may need the host's files once the root is there is
        not for this: nodes other than the usual, which are bound where they cannot be made; a volume that is filled; a file system with
        directories or devices of the host. Nor are mounts that are to propagate.
        """
        wanted = _by_place(planned.steps)
        done = {place for place, steps in self._steps.items() if wanted.get(place) == steps and (in_group or place != _CGROUPS)}
        if not planned.birth.clone_flags & namespace.CLONE_NEWNS or _DEV not in done:
            return None
        left: list[Step] = []
        for step in planned.steps:
            match step:
                case mounting.EnterRoot() if step.propagation or not step.pivot:
                    return None
                case mounting.Mount() if step.copy_up or step.options.copy_up or step.kind not in _WITHIN:
                    return None
                case mounting.Detach():  # the namespace to enter was made detached
                    continue
                case mounting.OpenCgroups() if _CGROUPS in done:
                    continue
            place = _place(step)
            if place not in done:
                left.append(step)
            elif place in self._trees:
                left.append(Place(place, self._trees.pop(place), self._made))
        return tuple(left)

    def sandbox(self, *, in_group: bool) -> Sandbox:
        """For the steps that are left."""
        return Sandbox(self._made.groups, in_group=in_group, empty_fd=self._made.empty_fd, enter=self.enter)

    def enter(self) -> None:
        """Go where the trees are, for good."""
        namespace.setns(self._namespace_fd, namespace.CLONE_NEWNS)
        os.close(self._namespace_fd)

    def strike(self) -> None:
        """It is not used: let go of all of it."""
        os.close(self._namespace_fd)
        for tree in self._trees.values():
            os.close(tree)
        for fd in (self._made.root_fd, self._made.proc_fd, self._made.dev_fd, self._made.pts_fd, self._made.null_fd, self._made.empty_fd):
            if fd >= 0:
                os.close(fd)


def lay_ground() -> int:
    """A mount namespace with nothing in it but an empty root, as a descriptor; -1 where there can be none.

    A copy of it costs less than one of the host's, of which each mount is copied and taken away again. There is none where an overlay of
    several layers would be seen on the host for a moment, because the kernel cannot make one that is mounted nowhere.
    """
    if not mount.takes_single_layers():
        return -1
    try:
        with namespace.elsewhere() as names:
            namespace.unshare(namespace.CLONE_NEWNS)
            mount.set_propagation("/", mount.MS_REC | mount.MS_PRIVATE)
            root_fd = mount.new_mount("tmpfs", [("mode", "755"), ("size", "64k")], source="tmpfs")
            for place in (*_PLACES, _ASIDE):
                os.close(files.mkdirs_in_root(root_fd, place))
            mounting.cover_root(root_fd)
            mounting.EnterRoot(readonly=True).execute(Sandbox(cgroup.Hierarchies({}, None), root_fd=root_fd))
            os.close(root_fd)
            return os.open("mnt", os.O_RDONLY | os.O_CLOEXEC, dir_fd=names)
    except OSError:
        return -1


def make(planned: Plan, groups: cgroup.Hierarchies, group: str, ground_fd: int) -> Stage | None:
    """What a plan like most needs, on a `lay_ground`; ``group``: the control group of this process, "" for none.

    Leaves this process where it is. None where it cannot be made: whoever starts a container learns why.
    """
    sandbox = Sandbox(groups)
    steps = _by_place(planned.steps)
    if not group:
        steps.pop(_CGROUPS, None)
    try:
        if _CGROUPS in steps:
            mounting.OpenCgroups(group).execute(sandbox)
        with namespace.elsewhere() as names:
            namespace.setns(ground_fd, namespace.CLONE_NEWNS)
            namespace.unshare(namespace.CLONE_NEWNS)
            own = os.open("mnt", os.O_RDONLY | os.O_CLOEXEC, dir_fd=names)
            sandbox.root_fd = os.open("/", _DIRECTORY)
            for step in planned.steps:
                if _place(step) in steps:
                    step.execute(sandbox)
            mounting.seal(sandbox)
            return Stage(own, sandbox, steps)
    except (OSError, StartFailure):
        return None


def _by_place(steps: Sequence[Step]) -> dict[str, list[object]]:
    """What is to be done in each place, in order, comparable."""
    found: dict[str, list[object]] = {}
    for step in steps:
        if place := _place(step):
            found.setdefault(place, []).append(_essence(step))
    return found


def _place(step: Step) -> str:
    """Where a step works, "" for elsewhere."""
    match step:
        case mounting.Mount() | mounting.MountCgroups():
            path = step.destination
        case covers.MaskPaths() | covers.ReadonlyPaths():
            path = step.paths[0]  # all are in /proc, or none
        case devices.MakeDevices():
            return _DEV
        case SetSysctls():
            return _PROC
        case _:
            return ""
    return next((place for place in _PLACES if path == place or path.startswith(place + "/")), "")


def _essence(step: Step) -> object:
    """Two steps with one essence do the same."""
    match step:
        case mounting.Mount():
            return step.destination, step.kind, step.source, step.options, step.copy_up
        case mounting.MountCgroups():
            return step.destination, step.options
        case _:
            return step
