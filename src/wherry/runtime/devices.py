"""Steps that fill a container's /dev: nodes, links and its console."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass

from wherry.kernel import files, mount, nodes, terminal
from wherry.runtime.failure import StartFailure
from wherry.runtime.steps import Sandbox

Device = tuple[str, str, int, int, int, int, int]  # path, type, major, minor, mode, uid, gid
DEVICES: tuple[Device, ...] = (
    *(("/dev/null", "c", 1, 3, 0o666, 0, 0), ("/dev/zero", "c", 1, 5, 0o666, 0, 0), ("/dev/full", "c", 1, 7, 0o666, 0, 0)),
    *(("/dev/random", "c", 1, 8, 0o666, 0, 0), ("/dev/urandom", "c", 1, 9, 0o666, 0, 0), ("/dev/tty", "c", 5, 0, 0o666, 0, 5)),
)


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
        own = files.open_beneath(sandbox.pts_fd, str(number), os.O_PATH)  # in a tree of others the name may lead to another file
        if not os.path.samestat(os.fstat(own), os.fstat(sandbox.slave_fd)):
            raise StartFailure(128, f"/dev/pts/{number} of the container is not its terminal")
        tree = mount.open_tree(own, "")
        os.close(own)
        mount.move_onto(tree, files.open_beneath(sandbox.dev_fd, "console", os.O_PATH))
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
        nodes.chmod_node(parent_fd, name, mode)
        return True
    except FileExistsError:
        return False
    except PermissionError:
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=parent_fd))
        tree = mount.open_tree(mount.AT_FDCWD, path)
        mount.move_onto(tree, files.open_beneath(parent_fd, name, os.O_PATH))
        os.close(tree)
        return False
