"""Steps that lay something over what a container shall not see or not change."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from wherry.kernel import files, mount
from wherry.runtime.steps import Sandbox

_MASK = mount.MOUNT_ATTR_RDONLY | mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV | mount.MOUNT_ATTR_NOEXEC


@dataclass(frozen=True, slots=True)
class MaskPaths:
    """Hide files behind the container's /dev/null and directories behind one empty read-only tmpfs."""

    paths: tuple[str, ...]

    def describe(self) -> str:
        return "mask " + " ".join(self.paths)

    def execute(self, sandbox: Sandbox) -> None:
        for target in _there(sandbox, self.paths):
            tree = _empty(sandbox) if stat.S_ISDIR(os.fstat(target).st_mode) else mount.open_tree(sandbox.null_fd, "")
            mount.move_onto(tree, target)
            if tree != sandbox.empty_fd:
                os.close(tree)


@dataclass(frozen=True, slots=True)
class ReadonlyPaths:
    """Bind paths onto themselves, read-only."""

    paths: tuple[str, ...]

    def describe(self) -> str:
        return "make read-only " + " ".join(self.paths)

    def execute(self, sandbox: Sandbox) -> None:
        for target in _there(sandbox, self.paths):
            tree = mount.open_tree(target, "", recursive=True)
            mount.mount_setattr(tree, add=mount.MOUNT_ATTR_RDONLY, recursive=True)
            mount.move_onto(tree, target)
            os.close(tree)


def _there(sandbox: Sandbox, paths: Sequence[str]) -> Iterator[int]:
    """Each of the paths that the container has, as a descriptor, which is the caller's."""
    for path in paths:
        try:
            target = files.open_in_root(sandbox.root_fd, path, os.O_PATH)
        except (FileNotFoundError, NotADirectoryError):
            continue
        yield target


def _empty(sandbox: Sandbox) -> int:
    """One more mount of the empty file system."""
    if sandbox.empty_fd >= 0:
        return mount.open_tree(sandbox.empty_fd, "")
    options = [("mode", "755"), ("size", "4k"), ("nr_inodes", "1")]
    sandbox.empty_fd = mount.new_mount("tmpfs", options, source="tmpfs", attributes=_MASK)
    return sandbox.empty_fd
