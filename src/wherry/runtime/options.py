"""The options of an OCI mount, sorted by who they are for: the mount, the file system, or the runtime."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from wherry.kernel import mount

_ATTRIBUTES = {
    "ro": (mount.MOUNT_ATTR_RDONLY, 0),
    "rw": (0, mount.MOUNT_ATTR_RDONLY),
    "nosuid": (mount.MOUNT_ATTR_NOSUID, 0),
    "suid": (0, mount.MOUNT_ATTR_NOSUID),
    "nodev": (mount.MOUNT_ATTR_NODEV, 0),
    "dev": (0, mount.MOUNT_ATTR_NODEV),
    "noexec": (mount.MOUNT_ATTR_NOEXEC, 0),
    "exec": (0, mount.MOUNT_ATTR_NOEXEC),
    "nodiratime": (mount.MOUNT_ATTR_NODIRATIME, 0),
    "diratime": (0, mount.MOUNT_ATTR_NODIRATIME),
    "noatime": (mount.MOUNT_ATTR_NOATIME, mount.MOUNT_ATTR_ATIME),
    "atime": (0, mount.MOUNT_ATTR_ATIME),
    "nostrictatime": (0, mount.MOUNT_ATTR_ATIME),
    "strictatime": (mount.MOUNT_ATTR_STRICTATIME, mount.MOUNT_ATTR_ATIME),
    "relatime": (0, mount.MOUNT_ATTR_ATIME),
    "norelatime": (mount.MOUNT_ATTR_STRICTATIME, mount.MOUNT_ATTR_ATIME),
    "nosymfollow": (mount.MOUNT_ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, mount.MOUNT_ATTR_NOSYMFOLLOW),
}
_PROPAGATION = {
    "private": mount.MS_PRIVATE,
    "slave": mount.MS_SLAVE,
    "shared": mount.MS_SHARED,
    "unbindable": mount.MS_UNBINDABLE,
}
_NOTHING = frozenset(
    {
        "",  # Podman's --systemd=always writes one
        "noiversion",
        "defaults",
        "async",
        "auto",
        "noauto",
        "nofail",
        "user",
        "nouser",
        "_netdev",
        "silent",
        "loud",
        "z",
        "Z",
        "consistent",
        "cached",
        "delegated",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MountOptions:
    """``add`` and ``clear`` are MOUNT_ATTR bits for the mount itself, ``recursive_*`` for all below; ``data`` goes to the file system."""

    bind: bool = False
    recursive: bool = False
    idmap: bool = False
    idmap_recursive: bool = False
    copy_up: bool = False
    add: int = 0
    clear: int = 0
    recursive_add: int = 0
    recursive_clear: int = 0
    propagation: int = 0
    propagation_recursive: bool = False
    data: tuple[tuple[str, str | None], ...] = ()


def parse(options: Iterable[str]) -> MountOptions:
    """Sort the options of one mount; the last of a contradiction wins.  Raises ValueError for those of other runtimes."""
    bind = recursive = deep = idmap = idmap_recursive = copy_up = False
    add = clear = recursive_add = recursive_clear = propagation = 0
    data: list[tuple[str, str | None]] = []
    for option in options:
        if option in ("bind", "rbind"):
            bind, recursive = True, option == "rbind"
        elif option in _ATTRIBUTES:
            on, off = _ATTRIBUTES[option]
            add, clear = (add & ~off) | on, (clear & ~on) | off
        elif option[:1] == "r" and option[1:] in _ATTRIBUTES:
            on, off = _ATTRIBUTES[option[1:]]
            recursive_add, recursive_clear = (recursive_add & ~off) | on, (recursive_clear & ~on) | off
        elif option in _PROPAGATION:
            propagation, deep = _PROPAGATION[option], False
        elif option[:1] == "r" and option[1:] in _PROPAGATION:
            propagation, deep = _PROPAGATION[option[1:]], True
        elif option in ("idmap", "ridmap"):
            idmap, idmap_recursive = True, option == "ridmap"
        elif option == "tmpcopyup":
            copy_up = True
        elif option == "remount":
            raise ValueError("mount option remount is not supported: name the options on the mount itself")
        elif option not in _NOTHING:
            key, equals, value = option.partition("=")
            data.append((key, value if equals else None))
    return MountOptions(
        bind=bind,
        recursive=recursive,
        idmap=idmap,
        idmap_recursive=idmap_recursive,
        copy_up=copy_up,
        add=add,
        clear=clear,
        recursive_add=recursive_add,
        recursive_clear=recursive_clear,
        propagation=propagation,
        propagation_recursive=deep,
        data=tuple(data),
    )


def names() -> list[str]:
    """Every option that is for the mount or for the runtime, not for the file system."""
    recursive = [f"r{name}" for name in (*_ATTRIBUTES, *_PROPAGATION)]
    return [*_ATTRIBUTES, *_PROPAGATION, *recursive, "defaults", "async", "silent", "loud"]
