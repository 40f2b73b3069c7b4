"""The steps between a fresh process and a container: each can say what it does, and do it.

Every path of a container is opened inside its root by descriptor, mounts are made detached and then moved onto what was opened, so
nothing an image or a volume contains can lead a step elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from wherry.kernel import cgroup, files, mount, namespace, scheduling, terminal, userns
from wherry.runtime import copyup, labels
from wherry.runtime.failure import StartFailure
from wherry.runtime.options import MountOptions

Key = tuple[str, str, str, tuple[tuple[str, str | None], ...], int]  # of a new file system: destination, type, source, its options
Device = tuple[str, str, int, int, int, int, int]  # path, type, major, minor, mode, uid, gid
DEVICES: tuple[Device, ...] = (
    *(("/dev/null", "c", 1, 3, 0o666, 0, 0), ("/dev/zero", "c", 1, 5, 0o666, 0, 0), ("/dev/full", "c", 1, 7, 0o666, 0, 0)),
    *(("/dev/random", "c", 1, 8, 0o666, 0, 0), ("/dev/urandom", "c", 1, 9, 0o666, 0, 0), ("/dev/tty", "c", 5, 0, 0o666, 0, 5)),
)
ROOT = 1 << 20  # among the sources: a root that the parent opened


@dataclass(slots=True)
class Sandbox:
    """What the steps have made so far."""

    groups: cgroup.Hierarchies
    in_group: bool = False
    root_fd: int = -1
    pts_fd: int = -1
    dev_fd: int = -1
    null_fd: int = -1
    proc_fd: int = -1
    master_fd: int = -1
    slave_fd: int = -1
    dev_bound: bool = False
    at_hooks: Callable[[], None] | None = None
    labels: list[tuple[int, str]] = field(default_factory=list)
    sources: dict[int, int] = field(default_factory=dict)
    ahead: dict[Key, int] = field(default_factory=dict)  # file systems made already
    has_devices: bool = False  # the one for /dev has its nodes


class Step(Protocol):
    """One act of a plan."""

    def describe(self) -> str:
        """The act in one line."""

    def execute(self, sandbox: Sandbox) -> None:
        """Do it.  Raises OSError or StartFailure."""


@dataclass(frozen=True, slots=True)
class JoinCgroup:
    """Move into the container's group; with ``private`` into a cgroup namespace rooted there."""

    path: str
    private: bool

    def describe(self) -> str:
        return f"join cgroup {self.path}" + (" and make it the root of a cgroup namespace" if self.private else "")

    def execute(self, sandbox: Sandbox) -> None:
        if self.path and not sandbox.in_group:
            cgroup.join(sandbox.groups, self.path)
        if self.private:
            namespace.unshare(namespace.CLONE_NEWCGROUP)


@dataclass(frozen=True, slots=True)
class JoinNamespace:
    """Enter an existing namespace, by path or by a descriptor that came with the launch."""

    kind: int
    path: str
    fd: int = -1

    def describe(self) -> str:
        return f"join namespace {self.path or f'descriptor {self.fd}'}"

    def execute(self, sandbox: Sandbox) -> None:
        fd = self.fd if self.fd >= 0 else os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            namespace.setns(fd, self.kind)
        finally:
            os.close(fd)


_OTHER_ROOT = re.compile("/proc/([0-9]+)/root(/.+)")


@dataclass(frozen=True, slots=True)
class OpenSource:
    """Take a detached copy of a host tree while the host's paths still mean what they say."""

    index: int
    source: str
    options: MountOptions
    uids: tuple[userns.IdMap, ...] = ()
    gids: tuple[userns.IdMap, ...] = ()

    def describe(self) -> str:
        return f"open {self.source}" + (" with other ids" if self.uids else "")

    def execute(self, sandbox: Sandbox) -> None:
        if self.index in sandbox.sources:  # opened by the parent, which may do more
            return
        tree = self._open()
        if self.uids:
            user = userns.open_mapped(self.uids, self.gids)
            mount.idmap(tree, user, recursive=self.options.idmap_recursive)
            os.close(user)
        sandbox.sources[self.index] = tree

    def _open(self) -> int:
        match = _OTHER_ROOT.fullmatch(self.source)
        if match is None:
            return mount.open_tree(mount.AT_FDCWD, self.source, recursive=self.options.recursive)
        # only who is in a mount namespace may copy from it
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        with open("/proc/self/ns/mnt") as own, open(f"/proc/{match[1]}/ns/mnt") as other:
            namespace.setns(other.fileno(), namespace.CLONE_NEWNS)
            try:
                return mount.open_tree(mount.AT_FDCWD, match[2], recursive=self.options.recursive)
            finally:
                namespace.setns(own.fileno(), namespace.CLONE_NEWNS)
                os.fchdir(root)
                os.chroot(".")
                os.close(root)


@dataclass(frozen=True, slots=True)
class Detach:
    """Let no mount made from here on be seen outside, unless ``propagation`` is shared; the host's root itself stays out of it then."""

    propagation: int = mount.MS_REC | mount.MS_SLAVE

    def describe(self) -> str:
        return "stop mounts from propagating to the host"

    def execute(self, sandbox: Sandbox) -> None:
        mount.set_propagation("/", self.propagation)
        if self.propagation & (mount.MS_SHARED | mount.MS_UNBINDABLE):
            mount.set_propagation("/", mount.MS_PRIVATE)


@dataclass(frozen=True, slots=True)
class BecomeRoot:
    """Root of the user namespace, which owns nothing outside."""

    def describe(self) -> str:
        return "become root of the user namespace"

    def execute(self, sandbox: Sandbox) -> None:
        with contextlib.suppress(PermissionError):  # a joined namespace may forbid setgroups
            os.setgroups(())
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)


@dataclass(frozen=True, slots=True)
class OpenLabels:
    """The files of a security module that name the label of the next program: opened in the host's /proc, written at the very end."""

    apparmor: str
    selinux: str

    def describe(self) -> str:
        return f"prepare the labels {self.apparmor} {self.selinux}"

    def execute(self, sandbox: Sandbox) -> None:
        sandbox.labels += labels.open_files(self.apparmor, self.selinux)


@dataclass(frozen=True, slots=True)
class AwaitHooks:
    """The hooks between a finished root file system and entering it."""

    def describe(self) -> str:
        return "run the hooks of creation"

    def execute(self, sandbox: Sandbox) -> None:
        if sandbox.at_hooks is not None:
            sandbox.at_hooks()


@dataclass(frozen=True, slots=True)
class MountRoot:
    """Put the root file system together and lay it over the host's, in this mount namespace only."""

    lower: tuple[str, ...]
    upper: str | None
    work: str | None
    recursive: bool = False

    def describe(self) -> str:
        return f"mount root: {len(self.lower)} layers under {self.upper}" if self.lower else f"mount root: bind {self.upper}"

    def execute(self, sandbox: Sandbox) -> None:
        tree = sandbox.sources.pop(ROOT, -1)
        if tree < 0:
            tree = assemble_root(self.lower, self.upper, self.work, recursive=self.recursive)
        mount.mount_setattr(tree, propagation=mount.MS_PRIVATE, recursive=self.recursive)
        host = os.open("/", os.O_PATH | os.O_CLOEXEC)
        mount.move_mount(tree, host)
        os.close(host)
        sandbox.root_fd = tree


@dataclass(frozen=True, slots=True)
class Mount:
    """One entry of the config's ``mounts``."""

    index: int
    destination: str
    kind: str
    source: str
    options: MountOptions
    copy_up: str = ""

    def describe(self) -> str:
        return f"mount {self.kind or 'bind'} {self.source} on {self.destination}"

    def execute(self, sandbox: Sandbox) -> None:
        tree = sandbox.sources.pop(self.index, -1)
        if tree < 0:
            tree = sandbox.ahead.pop(self.key, -1)
            if tree < 0:
                tree = self.make()
            elif self.destination == "/dev":
                sandbox.has_devices = True
            if self.options.propagation:
                mount.mount_setattr(tree, propagation=self.options.propagation)
            if self.options.copy_up:
                copyup.fill(sandbox.root_fd, self.destination, tree)
        else:
            self._restrict(tree)
        if self.copy_up:
            copyup.fill(sandbox.root_fd, self.destination, tree)
        target = open_target(
            sandbox.root_fd, self.destination, directory=stat.S_ISDIR(os.fstat(tree).st_mode), plain=self.kind in ("proc", "sysfs")
        )
        try:
            mount.move_mount(tree, target)
        finally:
            os.close(target)
        self._remember(sandbox, tree)

    @property
    def key(self) -> Key:
        """Two steps with one key need the same file system."""
        return self.destination, self.kind, self.source, self.options.data, self.options.add

    def make(self) -> int:
        """A new file system, mounted nowhere."""
        return mount.new_mount(self.kind, self.options.data, source=self.source, attributes=self.options.add)

    def _restrict(self, tree: int) -> None:
        options = self.options
        mount.mount_setattr(
            tree, propagation=options.propagation or mount.MS_PRIVATE, recursive=options.propagation_recursive or not options.propagation
        )
        if options.add or options.clear:
            mount.mount_setattr(tree, add=options.add, clear=options.clear)
        if options.recursive_add or options.recursive_clear:
            mount.mount_setattr(tree, add=options.recursive_add, clear=options.recursive_clear, recursive=True)

    def _remember(self, sandbox: Sandbox, tree: int) -> None:
        """Later steps reach /proc, /dev and /dev/pts by the very mounts made here."""
        if self.kind == "proc" and self.destination == "/proc":
            sandbox.proc_fd = tree
        elif self.destination == "/dev":
            sandbox.dev_fd, sandbox.dev_bound = tree, not self.kind
        elif self.kind == "devpts" and self.destination == "/dev/pts":
            sandbox.pts_fd = tree
        else:
            os.close(tree)


@dataclass(frozen=True, slots=True)
class MountCgroups:
    """Show the container its own groups: cgroup2 on v2, a read-only tmpfs with one directory per controller on v1."""

    destination: str
    options: MountOptions
    path: str

    def describe(self) -> str:
        return f"mount cgroups of {self.path} on {self.destination}"

    def execute(self, sandbox: Sandbox) -> None:
        # v2 is mounted after the cgroup namespace was made; on v1 the group's directories are bound, which needs none
        if sandbox.groups.v2:
            tree = mount.new_mount("cgroup2", source="cgroup", attributes=self.options.add)
            _attach(sandbox.root_fd, tree, self.destination)
            return
        attributes = self.options.add & ~mount.MOUNT_ATTR_RDONLY
        tmpfs = mount.new_mount("tmpfs", [("mode", "755"), ("size", "64k")], source="tmpfs", attributes=attributes)
        trees = sandbox.sources
        target = open_target(sandbox.root_fd, self.destination, directory=True)
        mount.move_mount(tmpfs, target)
        os.close(target)
        for index, controller in enumerate(sandbox.groups.v1):
            os.mkdir(controller, 0o555, dir_fd=tmpfs)
            tree = trees.pop(-1 - index)
            mount.mount_setattr(tree, add=self.options.add, propagation=mount.MS_PRIVATE)
            directory = files.open_beneath(tmpfs, controller, os.O_PATH | os.O_DIRECTORY)
            mount.move_mount(tree, directory)
            os.close(directory)
            os.close(tree)
        if self.options.add & mount.MOUNT_ATTR_RDONLY:
            mount.mount_setattr(tmpfs, add=mount.MOUNT_ATTR_RDONLY)
        os.close(tmpfs)


@dataclass(frozen=True, slots=True)
class OpenCgroups:
    """Take copies of the group's v1 directories for `MountCgroups`."""

    path: str

    def describe(self) -> str:
        return f"open the cgroup directories of {self.path}"

    def execute(self, sandbox: Sandbox) -> None:
        if not sandbox.groups.v2:
            for index, root in enumerate(sandbox.groups.v1.values()):
                sandbox.sources[-1 - index] = mount.open_tree(mount.AT_FDCWD, f"{root}/{self.path.lstrip('/')}")


@dataclass(frozen=True, slots=True)
class MakeDevices:
    """The device nodes and links of /dev; where mknod is not allowed the host's nodes are bound."""

    devices: tuple[Device, ...]

    def describe(self) -> str:
        return "make devices " + " ".join(device[0] for device in self.devices)

    def execute(self, sandbox: Sandbox) -> None:
        if sandbox.dev_fd < 0:
            sandbox.dev_fd = files.mkdirs_in_root(sandbox.root_fd, "/dev", 0o755)
        if not sandbox.dev_bound:
            self._fill(sandbox)
        sandbox.null_fd = files.open_beneath(sandbox.dev_fd, "null", os.O_PATH)
        status = os.fstat(sandbox.null_fd)
        if not (stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(1, 3)):
            raise StartFailure(128, "/dev/null of the container is not the null device")

    def _fill(self, sandbox: Sandbox) -> None:
        if not sandbox.has_devices:
            fill_dev(self.devices, sandbox.dev_fd, sandbox.root_fd)
        elif added := [one for one in self.devices if one not in DEVICES]:
            make_nodes(added, sandbox.dev_fd, sandbox.root_fd)


@dataclass(frozen=True, slots=True)
class OpenConsole:
    """A pty of the container's own devpts; its slave is also /dev/console."""

    height: int
    width: int

    def describe(self) -> str:
        return f"open a terminal of {self.height} x {self.width}"

    def execute(self, sandbox: Sandbox) -> None:
        if sandbox.pts_fd < 0:  # it came with a tree that is bound on /dev
            sandbox.pts_fd = files.open_in_root(sandbox.root_fd, "dev/pts", os.O_PATH | os.O_DIRECTORY)
        sandbox.master_fd, sandbox.slave_fd, number = terminal.open_pair(sandbox.pts_fd)
        if self.height and self.width:
            terminal.set_size(sandbox.master_fd, height=self.height, width=self.width)
        with contextlib.suppress(FileExistsError):
            os.close(os.open("console", os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_RDONLY, 0o600, dir_fd=sandbox.dev_fd))
        tree = mount.open_tree(sandbox.pts_fd, str(number))
        console = files.open_beneath(sandbox.dev_fd, "console", os.O_PATH)
        mount.move_mount(tree, console)
        os.close(console)
        os.close(tree)


@dataclass(frozen=True, slots=True)
class SetSysctls:
    """Kernel settings of the container's namespaces, through the procfs mounted above and nothing else."""

    values: tuple[tuple[str, str], ...]

    def describe(self) -> str:
        return "set " + " ".join(f"{key}={value}" for key, value in self.values)

    def execute(self, sandbox: Sandbox) -> None:
        for key, value in self.values:
            path = "sys/" + key.replace(".", "/")
            try:
                fd = files.openat2(
                    sandbox.proc_fd,
                    path,
                    os.O_WRONLY,
                    resolve=files.RESOLVE_BENEATH | files.RESOLVE_NO_SYMLINKS | files.RESOLVE_NO_XDEV,
                )
                try:
                    os.write(fd, value.encode())
                finally:
                    os.close(fd)
            except OSError as error:
                raise StartFailure(128, f"open sysctl {key} file: {error.strerror}") from None


@dataclass(frozen=True, slots=True)
class MaskPaths:
    """Hide files behind the container's /dev/null and directories behind one empty read-only tmpfs."""

    paths: tuple[str, ...]

    def describe(self) -> str:
        return "mask " + " ".join(self.paths)

    def execute(self, sandbox: Sandbox) -> None:
        empty = -1
        for path in self.paths:
            try:
                target = files.open_in_root(sandbox.root_fd, path, os.O_PATH)
            except (FileNotFoundError, NotADirectoryError):
                continue
            if not stat.S_ISDIR(os.fstat(target).st_mode):
                tree = mount.open_tree(sandbox.null_fd, "")
            else:
                if empty < 0:
                    options = [("mode", "755"), ("size", "4k"), ("nr_inodes", "1")]
                    empty = mount.new_mount("tmpfs", options, source="tmpfs", attributes=_MASK)
                    tree = empty
                else:
                    tree = mount.open_tree(empty, "")
            mount.move_mount(tree, target)
            os.close(target)
            if tree != empty:
                os.close(tree)
        if empty >= 0:
            os.close(empty)


@dataclass(frozen=True, slots=True)
class ReadonlyPaths:
    """Bind paths onto themselves, read-only."""

    paths: tuple[str, ...]

    def describe(self) -> str:
        return "make read-only " + " ".join(self.paths)

    def execute(self, sandbox: Sandbox) -> None:
        for path in self.paths:
            try:
                target = files.open_in_root(sandbox.root_fd, path, os.O_PATH)
            except (FileNotFoundError, NotADirectoryError):
                continue
            tree = mount.open_tree(target, "", recursive=True)
            mount.mount_setattr(tree, add=mount.MOUNT_ATTR_RDONLY, recursive=True)
            mount.move_mount(tree, target)
            os.close(tree)
            os.close(target)


@dataclass(frozen=True, slots=True)
class SetNames:
    """Host and domain name."""

    hostname: str
    domainname: str

    def describe(self) -> str:
        return f"set host name {self.hostname} {self.domainname}".rstrip()

    def execute(self, sandbox: Sandbox) -> None:
        if self.hostname:
            namespace.sethostname(self.hostname)
        if self.domainname:
            namespace.setdomainname(self.domainname)


@dataclass(frozen=True, slots=True)
class AdjustOomScore:
    """Written while the host's /proc is there; a value that needs CAP_SYS_RESOURCE is left out without it, unless it is ``exact``."""

    score: int
    exact: bool = False

    def describe(self) -> str:
        return f"set oom_score_adj {self.score}"

    def execute(self, sandbox: Sandbox) -> None:
        try:
            with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
                file.write(str(self.score))
        except PermissionError:
            if self.exact:
                raise


@dataclass(frozen=True, slots=True)
class SetPersonality:
    """The execution domain of the program: LINUX or LINUX32."""

    wanted: Mapping[str, Any]

    def describe(self) -> str:
        return f"set personality {self.wanted['domain']}"

    def execute(self, sandbox: Sandbox) -> None:
        if self.wanted["domain"] not in scheduling.DOMAINS or self.wanted.get("flags"):
            raise StartFailure(128, f"linux.personality {dict(self.wanted)} is not supported")
        scheduling.set_personality(scheduling.DOMAINS[self.wanted["domain"]])


@dataclass(frozen=True, slots=True)
class MakeDirectory:
    """The working directory, when the image does not have it."""

    path: str

    def describe(self) -> str:
        return f"make {self.path} unless it exists"

    def execute(self, sandbox: Sandbox) -> None:
        # What is in the way (a file, a dangling link) is reported by chdir in its own words.
        with contextlib.suppress(OSError):
            os.close(files.mkdirs_in_root(sandbox.root_fd, self.path, 0o755))


@dataclass(frozen=True, slots=True)
class EnterRoot:
    """pivot_root and forget the host's tree; ``readonly``: the root itself, not what is mounted in it.

    Without ``pivot`` (a host that runs from a ramdisk, which cannot be pivoted from) the host's tree stays covered by the root.
    """

    readonly: bool
    propagation: int = 0
    pivot: bool = True

    def describe(self) -> str:
        return "enter the root" + (", read-only" if self.readonly else "")

    def execute(self, sandbox: Sandbox) -> None:
        if self.readonly:
            mount.mount_setattr(sandbox.root_fd, add=mount.MOUNT_ATTR_RDONLY)
        os.fchdir(sandbox.root_fd)
        if self.pivot:
            mount.pivot_root(".", ".")
            mount.umount2(".", mount.MNT_DETACH)
        else:
            os.chroot(".")
        os.chdir("/")
        if self.propagation:
            mount.set_propagation("/", self.propagation)


def assemble_root(lower: tuple[str, ...], upper: str | None, work: str | None, *, recursive: bool = False) -> int:
    """A root file system, mounted nowhere yet."""
    if lower and upper is None and len(lower) == 1:
        tree = mount.open_tree(mount.AT_FDCWD, lower[0])
        mount.mount_setattr(tree, add=mount.MOUNT_ATTR_RDONLY)
        return tree
    if lower:
        return mount.overlay(list(lower), upper, work)
    return mount.open_tree(mount.AT_FDCWD, upper or "", recursive=recursive)


def open_target(root_fd: int, path: str, *, directory: bool, plain: bool = False) -> int:
    """An O_PATH descriptor of where something is to be mounted, made when missing; ``plain`` refuses a symlink on the way."""
    if plain:
        with contextlib.suppress(FileNotFoundError):
            return files.open_beneath(root_fd, path.lstrip("/"), os.O_PATH | os.O_DIRECTORY)
    if directory:
        return files.mkdirs_in_root(root_fd, path, 0o755)
    try:
        return files.open_in_root(root_fd, path, os.O_PATH)
    except FileNotFoundError:
        parent, name = os.path.split(path.rstrip("/"))
    parent_fd = files.mkdirs_in_root(root_fd, parent or "/", 0o755)
    try:
        os.close(files.open_beneath(parent_fd, name, os.O_CREAT | os.O_EXCL | os.O_RDONLY, 0o755))
        return files.open_beneath(parent_fd, name, os.O_PATH)
    finally:
        os.close(parent_fd)


_MASK = mount.MOUNT_ATTR_RDONLY | mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV | mount.MOUNT_ATTR_NOEXEC


def _attach(root_fd: int, tree: int, destination: str) -> None:
    target = open_target(root_fd, destination, directory=True)
    mount.move_mount(tree, target)
    os.close(target)
    os.close(tree)


def fill_dev(devices: Iterable[Device], dev_fd: int, root_fd: int = -1) -> None:
    """Nodes and links of /dev; ``root_fd``: for those that lie elsewhere.  Raises OSError."""
    make_nodes(devices, dev_fd, root_fd)
    for target, name in (
        *(("/proc/self/fd", "fd"), ("/proc/self/fd/0", "stdin"), ("/proc/self/fd/1", "stdout")),
        *(("/proc/self/fd/2", "stderr"), ("pts/ptmx", "ptmx"), ("/proc/kcore", "core")),
    ):
        with contextlib.suppress(FileExistsError):
            os.symlink(target, name, dir_fd=dev_fd)


def make_nodes(devices: Iterable[Device], dev_fd: int, root_fd: int) -> None:
    """Device nodes, in /dev and elsewhere.  Raises OSError."""
    for path, kind, major, minor, mode, uid, gid in devices:
        parent, name = os.path.split(path)
        parent_fd = files.mkdirs_in_root(root_fd, parent, 0o755) if parent != "/dev" else os.dup(dev_fd)
        try:
            made = _make_device(parent_fd, name, kind, os.makedev(major, minor), mode, path)
            if made and (uid or gid):
                os.chown(name, uid, gid, dir_fd=parent_fd, follow_symlinks=False)
        finally:
            os.close(parent_fd)


def _make_device(parent_fd: int, name: str, kind: str, number: int, mode: int, path: str) -> bool:
    """False when it was there or is the host's own, bound: its owner is none of ours."""
    form = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}[kind]
    try:
        os.mknod(name, form | mode, number, dir_fd=parent_fd)
        os.chmod(name, mode, dir_fd=parent_fd)
        return True
    except FileExistsError:
        return False
    except PermissionError:
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=parent_fd))
        tree = mount.open_tree(mount.AT_FDCWD, path)
        target = files.open_beneath(parent_fd, name, os.O_PATH)
        mount.move_mount(tree, target)
        os.close(target)
        os.close(tree)
        return False


def describe(steps: list[Any]) -> str:
    """A plan as text, one numbered step a line."""
    return "\n".join(f"{number:2}. {step.describe()}" for number, step in enumerate(steps, 1))
