"""From a request's volumes, binds, mounts and tmpfs to one list of mount records.  Pure.

Source: behaviours of Docker 28 (`-v`, `--mount`, `--tmpfs`, VOLUME); Engine API 1.51 Mount.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence

from wherry.containers.record import MountRecord
from wherry.errors import InvalidRequest
from wherry.spec.docker.container import HostConfig, Mount

PROPAGATIONS = frozenset({"private", "rprivate", "shared", "rshared", "slave", "rslave"})
_VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_LABELLING = frozenset({"z", "Z"})
_CONSISTENCY = frozenset({"consistent", "cached", "delegated", "default"})
_MODES = ({"ro", "rw"}, _LABELLING, _CONSISTENCY, PROPAGATIONS, {"nocopy"})  # of each at most one
_TMPFS_FLAGS = PROPAGATIONS | frozenset(
    "defaults ro rw suid nosuid dev nodev exec noexec sync async dirsync remount mand nomand atime noatime diratime nodiratime "
    "bind rbind unbindable runbindable relatime norelatime strictatime nostrictatime".split()
)
_TMPFS_VALUES = frozenset({"mode", "uid", "gid", "size", "nr_inodes", "nr_blocks", "mpol"})
_FORBIDDEN_UNDER = "/proc"


def collect(host: HostConfig, image_volumes: Iterable[str], inherited: Sequence[MountRecord] = ()) -> list[MountRecord]:
    """Every mount the container gets, in order of precedence: inherited (`--volumes-from`), binds, mounts, tmpfs, then VOLUME paths.

    A volume record without a name asks for an anonymous volume.  Raises InvalidRequest in Docker's words.
    """
    found: dict[str, MountRecord] = {record.destination: record for record in inherited}
    taken: set[str] = set()
    asked = [parse_bind(text) for text in host.binds or ()]
    asked += [parse_mount(mount) for mount in host.mounts or ()]
    for record in asked:
        if record.destination in taken:
            raise InvalidRequest(f"Duplicate mount point: {record.destination}")
        taken.add(record.destination)
        found[record.destination] = record
    for destination, options in (host.tmpfs or {}).items():
        target = checked_destination(destination)
        if target in taken:
            raise InvalidRequest(f"Duplicate mount point: {target}")
        found[target] = MountRecord(type="tmpfs", destination=target, options=_tmpfs_options(options), spec="tmpfs")
    for path in image_volumes:
        target = checked_destination("/" + path)  # a relative one is the root's
        if target not in found:
            found[target] = MountRecord(type="volume", destination=target, driver="local", copy_up=True, anonymous=True, spec="image")
    return list(found.values())


def checked_destination(path: str) -> str:
    """A clean absolute path inside the container, not the root and not under /proc (where labels and sysctls are written)."""
    if not path.startswith("/"):
        raise InvalidRequest(f"invalid mount path: '{path}' mount path must be absolute")
    if "\0" in path or "\n" in path:
        raise InvalidRequest(f"invalid mount path: {path!r}")
    clean = posixpath.normpath("/" + path.lstrip("/"))
    if clean == "/":
        raise InvalidRequest("invalid specification: destination can't be '/'")
    if clean == _FORBIDDEN_UNDER or clean.startswith(_FORBIDDEN_UNDER + "/"):
        raise InvalidRequest(f'"{clean}" cannot be mounted because it is inside /proc')
    return clean


def parse_bind(text: str) -> MountRecord:
    """`SOURCE:DESTINATION[:MODE]`; a source without a slash names a volume."""
    parts = text.split(":")
    if len(parts) == 1 and text.startswith("/"):
        return MountRecord(type="volume", destination=checked_destination(text), driver="local", copy_up=True, anonymous=True)
    if len(parts) not in (2, 3) or not parts[0] or not parts[1] or (len(parts) == 2 and _is_mode(parts[1].split(","))):
        raise InvalidRequest(f"invalid volume specification: '{text}'")
    source = parts[0]
    kind = "bind" if source.startswith("/") else "volume"
    try:
        destination = checked_destination(parts[1])
    except InvalidRequest as error:
        raise InvalidRequest(f"invalid volume specification: '{text}': invalid mount config for type \"{kind}\": {error}") from error
    mode = parts[2] if len(parts) == 3 else ""
    words = [word for word in mode.split(",") if word]
    if not _is_mode(words):
        raise InvalidRequest(f"invalid mode: {mode}")
    propagation = next((word for word in words if word in PROPAGATIONS), "")
    if stray := "BindOptions" if kind == "volume" and propagation else "VolumeOptions" if kind == "bind" and "nocopy" in words else "":
        config = f'invalid mount config for type "{kind}": field {stray} must not be specified'
        raise InvalidRequest(f"invalid volume specification: '{text}': {config}")
    if kind == "bind":
        return MountRecord(
            type="bind",
            source=posixpath.normpath(source),
            destination=destination,
            mode=mode,
            read_only="ro" in words,
            propagation=propagation or "rprivate",
        )
    return MountRecord(
        type="volume",
        name=checked_volume_name(source),
        destination=destination,
        driver="local",
        mode=mode or "z",
        read_only="ro" in words,
        copy_up="nocopy" not in words,
    )


def check_inherited_mode(mode: str) -> None:
    """The mode of `--volumes-from`, which neither copies nor propagates.  Raises InvalidRequest."""
    words = [word for word in mode.split(",") if word]
    if not _is_mode(words) or set(words) & (PROPAGATIONS | {"nocopy"}):
        raise InvalidRequest(f"invalid mode: {mode}")


def _is_mode(words: Sequence[str]) -> bool:
    return set(words) <= set().union(*_MODES) and all(sum(word in kin for word in words) <= 1 for kin in _MODES)


def check_propagation(record: MountRecord, place: str, fields: str) -> None:
    """Raises InvalidRequest where the host's mount at ``place`` cannot do what is asked.  ``fields``: as of `kernel.mount.sharing`."""
    kind = record.propagation.removeprefix("r")
    if "shared:" not in fields and not (kind == "slave" and "master:" in fields):
        wanted = "shared" if kind == "shared" else "shared or slave"
        raise InvalidRequest(f"path {record.source} is mounted on {place} but it is not a {wanted} mount")


def checked_volume_name(name: str) -> str:
    if len(name) == 1:
        raise InvalidRequest(f"create {name}: volume name is too short, names should be at least two alphanumeric characters")
    if not _VOLUME_NAME.fullmatch(name):
        raise InvalidRequest(
            f'create {name}: "{name}" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. '
            "If you intended to pass a host directory, use absolute path"
        )
    return name


def parse_mount(mount: Mount) -> MountRecord:
    """One of HostConfig.Mounts."""
    for kind, options in (("bind", mount.bind_options), ("volume", mount.volume_options), ("tmpfs", mount.tmpfs_options)):
        if options is not None and mount.type != kind:
            raise InvalidRequest(f'{kind.capitalize()}Options must not be specified on mount type "{mount.type}"')
    if mount.image_options is not None and mount.type != "image":
        raise InvalidRequest(f'invalid mount config for type "{mount.type}": field ImageOptions must not be specified')
    if mount.type not in ("bind", "volume", "tmpfs", "image"):
        raise InvalidRequest(f'invalid mount config for type "{mount.type}": mount type unknown')
    if not mount.target:
        raise InvalidRequest(f'invalid mount config for type "{mount.type}": field Target must not be empty')
    try:
        destination = checked_destination(mount.target)
    except InvalidRequest as error:
        raise InvalidRequest(f'invalid mount config for type "{mount.type}": {error}') from error
    if mount.type == "bind":
        return _bind(mount, destination)
    if mount.type == "tmpfs":
        return _tmpfs(mount, destination)
    if mount.type == "image":
        return _image(mount, destination)
    options = mount.volume_options
    if mount.read_only and not mount.source:
        raise InvalidRequest('invalid mount config for type "volume": must not set ReadOnly mode when using anonymous volumes')
    if options and options.subpath and not mount.source:
        raise InvalidRequest('invalid mount config for type "volume": must not set Subpath when using anonymous volumes')
    return MountRecord(
        type="volume",
        name=checked_volume_name(mount.source) if mount.source else "",
        anonymous=not mount.source,
        destination=destination,
        driver="local",
        mode="z",
        read_only=mount.read_only,
        copy_up=not (options and options.no_copy),
        subpath=_subpath("volume", options.subpath if options else ""),
        spec="mounts",
    )


def _bind(mount: Mount, destination: str) -> MountRecord:
    if not mount.source:
        raise InvalidRequest('invalid mount config for type "bind": field Source must not be empty')
    if not mount.source.startswith("/"):
        raise InvalidRequest(f"invalid mount config for type \"bind\": invalid mount path: '{mount.source}' mount path must be absolute")
    options = mount.bind_options
    propagation = options.propagation if options else ""
    if propagation and propagation not in PROPAGATIONS:
        raise InvalidRequest(f'invalid mount config for type "bind": invalid propagation mode: {propagation}')
    return MountRecord(
        type="bind",
        source=posixpath.normpath(mount.source),
        destination=destination,
        read_only=mount.read_only,
        propagation=propagation or "rprivate",
        non_recursive=bool(options and options.non_recursive),
        spec="mounts" if not (options and options.create_mountpoint) else "binds",
    )


def _image(mount: Mount, destination: str) -> MountRecord:
    if not mount.source:
        raise InvalidRequest('invalid mount config for type "image": field Source must not be empty')
    return MountRecord(
        type="image",
        name=mount.source,
        destination=destination,
        read_only=True,
        propagation="rprivate",
        subpath=_subpath("image", mount.image_options.subpath if mount.image_options else ""),
        spec="mounts",
    )


def _subpath(kind: str, subpath: str) -> str:
    if subpath and (subpath.startswith("/") or posixpath.normpath(subpath).split("/")[0] == ".." or "\0" in subpath):
        raise InvalidRequest(f'invalid mount config for type "{kind}": subpath must be a relative path within the volume')
    return subpath


def _tmpfs_options(text: str) -> list[str]:
    """The words of `--tmpfs`.  Raises InvalidRequest for one that tmpfs does not know."""
    words = [word for word in text.split(",") if word]
    for word in words:
        if word not in _TMPFS_FLAGS and word.partition("=")[0] not in _TMPFS_VALUES:
            raise InvalidRequest(f'invalid tmpfs option "{word.partition("=")[0]}"')
    return words


def _tmpfs(mount: Mount, destination: str) -> MountRecord:
    if mount.source:
        raise InvalidRequest('invalid mount config for type "tmpfs": field Source must not be specified')
    options = []
    if mount.tmpfs_options:
        if mount.tmpfs_options.size_bytes:
            options.append(f"size={mount.tmpfs_options.size_bytes}")
        if mount.tmpfs_options.mode:
            options.append(f"mode={mount.tmpfs_options.mode:o}")
        options += ["=".join(pair) for pair in mount.tmpfs_options.options or ()]
    return MountRecord(type="tmpfs", destination=destination, read_only=mount.read_only, options=options, spec="mounts")
