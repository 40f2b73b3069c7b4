"""Steps that make the tree of a container's mounts and enter it.

Every path of a container is opened inside its root by descriptor, mounts are made detached and then moved onto what was opened, so
nothing an image or a volume contains can lead a step elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from dataclasses import dataclass

from wherry.kernel import files, mount, namespace, userns
from wherry.runtime import copyup
from wherry.runtime.failure import StartFailure
from wherry.runtime.options import MountOptions
from wherry.runtime.steps import Key, Sandbox

OF_ANOTHER_KIND = (  # as runc says it
    "not a directory: Are you trying to mount a directory onto a file (or vice-versa)? "
    "Check if the specified host path exists and is the expected type"
)
ROOT = 1 << 20  # among the sources: a root that the parent opened
_MOST_LINKS = 40  # as many as the kernel follows
_ELSEWHERE = re.compile("(/proc/[0-9]+/fd/[0-9]+):(/.+)")  # a mount namespace, and a path in it


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
        match = _ELSEWHERE.fullmatch(self.source)
        if match is None:
            return mount.open_tree(mount.AT_FDCWD, self.source, recursive=self.options.recursive)
        with namespace.elsewhere(), open(match[1]) as other:  # only who is in a mount namespace may copy from it
            namespace.setns(other.fileno(), namespace.CLONE_NEWNS)
            return mount.open_tree(mount.AT_FDCWD, match[2], recursive=self.options.recursive)


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
        if sandbox.enter is not None:
            sandbox.enter()
        cover_root(tree)
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
        if self.kind == "tmpfs" and not any(key == "mode" for key, _ in self.options.data):
            self._take_mode(sandbox.root_fd, tree)
        self._place(sandbox.root_fd, tree)
        if self._is_sealed_later:
            sandbox.to_seal.append(os.dup(tree))
        self._remember(sandbox, tree)

    def _place(self, root_fd: int, tree: int) -> None:
        try:
            target = open_target(
                root_fd,
                self.destination,
                directory=stat.S_ISDIR(os.fstat(tree).st_mode),
                plain=self.kind in ("proc", "sysfs"),
                behind_links=self.destination != "/dev",
            )
            mount.move_onto(tree, target)
        except OSError as error:
            if self.kind or error.errno not in (errno.ENOTDIR, errno.EINVAL):
                raise
            where = f'error mounting "{self.source}" to rootfs at "{self.destination}"'
            raise StartFailure(127, f"{where}: mount src={self.source}, dst={self.destination}: {OF_ANOTHER_KIND}") from error

    @property
    def _is_sealed_later(self) -> bool:
        """Whether it is to be read-only, and others are made or mounted in it before."""
        return self.kind == "tmpfs" and bool(self.options.add & mount.MOUNT_ATTR_RDONLY)

    @property
    def key(self) -> Key:
        """Two steps with one key need the same file system."""
        return self.destination, self.kind, self.source, self.options.data, self.options.add

    def make(self) -> int:
        """A new file system, mounted nowhere."""
        attributes = self.options.add & ~(mount.MOUNT_ATTR_RDONLY if self._is_sealed_later else 0)
        return mount.new_mount(self.kind, self.options.data, source=self.source, attributes=attributes)

    def _take_mode(self, root_fd: int, tree: int) -> None:
        """That of the directory below, if there is one, as runc gives it to a tmpfs whose options name none."""
        try:
            below = files.open_in_root(root_fd, self.destination, os.O_PATH | os.O_DIRECTORY)
        except OSError:
            return
        os.chmod(".", stat.S_IMODE(os.fstat(below).st_mode), dir_fd=tree)
        os.close(below)

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
            mount.move_onto(tree, open_target(sandbox.root_fd, self.destination, directory=True))
            os.close(tree)
            return
        attributes = self.options.add & ~mount.MOUNT_ATTR_RDONLY
        tmpfs = mount.new_mount("tmpfs", [("mode", "755"), ("size", "64k")], source="tmpfs", attributes=attributes)
        mount.move_onto(tmpfs, open_target(sandbox.root_fd, self.destination, directory=True))
        for index, controller in enumerate(sandbox.groups.v1):
            os.mkdir(controller, 0o555, dir_fd=tmpfs)
            tree = sandbox.sources.pop(-1 - index)
            mount.mount_setattr(tree, add=self.options.add, propagation=mount.MS_PRIVATE)
            mount.move_onto(tree, files.open_beneath(tmpfs, controller, os.O_PATH | os.O_DIRECTORY))
            os.close(tree)
        if self.options.add & mount.MOUNT_ATTR_RDONLY:
            sandbox.to_seal.append(tmpfs)
        else:
            os.close(tmpfs)


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
        seal(sandbox)
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


def cover_root(tree: int) -> None:
    """Lay a detached mount over the root of this mount namespace."""
    mount.move_onto(tree, os.open("/", os.O_PATH | os.O_CLOEXEC))


def seal(sandbox: Sandbox) -> None:
    """Make read-only what was not until now because other things are mounted in it."""
    for tree in sandbox.to_seal:
        mount.mount_setattr(tree, add=mount.MOUNT_ATTR_RDONLY)
        os.close(tree)
    sandbox.to_seal.clear()


def assemble_root(lower: tuple[str, ...], upper: str | None, work: str | None, *, recursive: bool = False) -> int:
    """A root file system, mounted nowhere yet."""
    if lower and upper is None and len(lower) == 1:
        tree = mount.open_tree(mount.AT_FDCWD, lower[0])
        mount.mount_setattr(tree, add=mount.MOUNT_ATTR_RDONLY)
        return tree
    if lower:
        return mount.overlay(list(lower), upper, work)
    return mount.open_tree(mount.AT_FDCWD, upper or "", recursive=recursive)


def open_target(root_fd: int, path: str, *, directory: bool, plain: bool = False, behind_links: bool = True) -> int:
    """An O_PATH descriptor of where something is to be mounted, made when missing.

    ``plain`` refuses a symlink on the way; ``behind_links``: what a symlink names and nobody has is made too.
    """
    if plain:
        with contextlib.suppress(FileNotFoundError):
            return files.open_beneath(root_fd, path.lstrip("/"), os.O_PATH | os.O_DIRECTORY)
    for _ in range(_MOST_LINKS):
        try:
            return _open_or_make(root_fd, path, directory=directory)
        except OSError as error:
            further = _behind_link(root_fd, path) if error.errno in (errno.ELOOP, errno.EEXIST) and behind_links and not plain else None
            if further is None:
                raise
            path = further
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)


def _behind_link(root_fd: int, path: str) -> str | None:
    """The path with its first symlink that leads to nothing yet replaced by where it leads; None if it has no such.

    Images have /etc/resolv.conf as a link to a file in /run, which no container has.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    for count in range(1, len(parts) + 1):
        head = "/".join(parts[:count])
        try:
            os.close(files.open_in_root(root_fd, head, os.O_PATH))
            continue
        except FileNotFoundError:
            pass
        try:
            link = files.open_in_root(root_fd, head, os.O_PATH | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        try:
            if not stat.S_ISLNK(os.fstat(link).st_mode):
                return None
            target = os.readlink("", dir_fd=link)
        finally:
            os.close(link)
        return "/".join([*([] if target.startswith("/") else parts[: count - 1]), target.lstrip("/"), *parts[count:]])
    return None


def _open_or_make(root_fd: int, path: str, *, directory: bool) -> int:
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
