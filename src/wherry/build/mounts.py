"""RUN --mount: its options read, and each mount made into an OCI mount object for the one step.

A source inside another stage or an image is taken from the layers' directories with all symlinks resolved inside that root; what a step
writes to a writable bind is thrown away. Source: BuildKit's reference of RUN --mount.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import posixpath
import re
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wherry.build.context import Source
from wherry.build.failures import DockerfileError, did_you_mean
from wherry.build.instructions import Run
from wherry.build.state import Expander
from wherry.kernel import files
from wherry.tree.place import place
from wherry.tree.plan import Item, Plan

_KEYS = {
    "bind": {"target", "source", "from", "readwrite", "readonly"},
    "cache": {"id", "target", "readonly", "readwrite", "sharing", "from", "source", "mode", "uid", "gid"},
    "tmpfs": {"target", "size"},
    "secret": {"id", "target", "required", "mode", "uid", "gid", "env"},
    "ssh": {"id", "target", "required", "mode", "uid", "gid"},
}
_ALIASES = {"dst": "target", "destination": "target", "src": "source", "ro": "readonly", "rw": "readwrite"}
_BOOLEANS = frozenset({"readonly", "readwrite", "required"})
_SHARING = ("shared", "private", "locked")
_SIZE = re.compile(r"([0-9]+)\s*([kmgtp]?)i?b?", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunMount:
    """One mount as asked for, checked; ``target`` is absolute."""

    kind: str
    target: str
    source: str = ""
    origin: str = ""  # the stage or image named by from=, or empty for the context
    id: str = ""
    writable: bool = False
    sharing: str = "shared"
    required: bool = False
    mode: int | None = None
    uid: int = 0
    gid: int = 0
    size_bytes: int = 0
    env: str = ""

    def told(self) -> list[Any]:
        """What a step's key covers of it."""
        place = [self.kind, self.target, self.source, self.origin, self.id, self.writable, self.sharing, self.size_bytes, self.env]
        return [*place, self.required, self.mode, self.uid, self.gid]


def read_mounts(instruction: Run, expander: Expander, workdir: str) -> tuple[RunMount, ...]:
    """All of an instruction's mounts.  Raises DockerfileError in BuildKit's words."""
    return tuple(_read(text, instruction, expander, workdir) for text in instruction.mounts)


def _read(text: str, instruction: Run, expander: Expander, workdir: str) -> RunMount:
    def fault(message: str) -> DockerfileError:
        return DockerfileError(message, instruction.line.lines)

    fields: dict[str, str] = {}
    for part in text.split(","):
        written, equals, value = part.partition("=")
        key = _ALIASES.get(written.strip().lower(), written.strip().lower())
        if not equals and key not in _BOOLEANS:
            raise fault(f"invalid field '{part}' must be a key=value pair")
        if not any(key in keys for keys in _KEYS.values()) and key != "type":
            known = {"type", *_ALIASES}.union(*_KEYS.values())
            raise fault(f"unexpected key '{written}' in '{part}'{did_you_mean(written, sorted(known))}")
        fields[key] = value if key == "from" else expander.one(value) if equals else "true"
    kind = fields.pop("type", "bind").lower()
    if kind not in _KEYS:
        raise fault(f'unsupported mount type "{kind}"')
    for key in fields:
        if key not in _KEYS[kind]:
            raise fault(f"unexpected key '{key}' for mount type '{kind}'")
    for key in _BOOLEANS & fields.keys():
        if fields[key].lower() not in ("true", "false", "1", "0"):
            raise fault(f"invalid value for {key}: {fields[key]}")
    return _checked(kind, fields, workdir, fault)


def _checked(kind: str, fields: Mapping[str, str], workdir: str, fault: Any) -> RunMount:
    def number(name: str, base: int = 10, default: int = 0) -> int:
        try:
            value = int(fields[name], base) if name in fields else default
        except ValueError:
            value = -1
        if not 0 <= value < 1 << 31:
            raise fault(f"invalid value {fields[name]} for {name}")
        return value

    sharing = fields.get("sharing", "shared").lower()
    if sharing not in _SHARING:
        raise fault(f'unsupported sharing value "{sharing}"')
    target, ident = _target(kind, fields, workdir)
    if target == "/":
        raise fault('invalid mount target "/"')
    size = _SIZE.fullmatch(fields["size"]) if "size" in fields else None
    if "size" in fields and size is None:
        raise fault(f"invalid value for size: {fields['size']}")
    return RunMount(
        kind=kind,
        target=target,
        source=posixpath.normpath("/" + fields.get("source", "")).strip("/"),
        origin=fields.get("from", ""),
        id=ident,
        writable=_true(fields, "readwrite") if kind == "bind" else not _true(fields, "readonly"),
        sharing=sharing,
        required=_true(fields, "required"),
        mode=number("mode", 8) if "mode" in fields else None,
        uid=number("uid"),
        gid=number("gid"),
        size_bytes=int(size[1]) << (10 * " kmgtp".index(size[2].lower() or " ")) if size else 0,
        env=fields.get("env", ""),
    )


def _true(fields: Mapping[str, str], name: str) -> bool:
    return fields.get(name, "false").lower() in ("true", "1")


def _target(kind: str, fields: Mapping[str, str], workdir: str) -> tuple[str, str]:
    """Where it is mounted (empty: a secret that is only a variable), and its id."""
    ident = fields.get("id", "")
    target = fields.get("target", "")
    if kind == "secret":
        ident = ident or posixpath.basename(target) or fields.get("env", "")
        if not target and "env" in fields:
            return "", ident
        target = target or f"/run/secrets/{ident}"
    if kind == "ssh":
        ident, target = ident or "default", target or "/run/buildkit/ssh_agent.0"
    absolute = posixpath.normpath(posixpath.join("/", workdir, target)) if target else "/"
    return absolute, ident or (absolute if kind == "cache" else "")


def tmpfs(mount: RunMount) -> dict[str, Any]:
    options = ["nosuid", "nodev", "mode=1777"] + ([f"size={mount.size_bytes}"] if mount.size_bytes else [])
    return {"type": "tmpfs", "source": "tmpfs", "destination": mount.target, "options": options}


def bind(source: str, target: str, *, writable: bool) -> dict[str, Any]:
    """A bind mount of a path on the host."""
    return {"type": "bind", "source": source, "destination": target, "options": ["rbind", "rw" if writable else "ro"]}


def bind_layers(layers: Sequence[str], path: str, target: str, scratch: str | None) -> dict[str, Any]:
    """Show ``path`` (without symlinks) of a stack of layer directories, top first; with ``scratch``, a directory, writable.

    Raises FileNotFoundError.
    """
    stack = _layers_at(layers, path)
    if not stack:
        raise FileNotFoundError(path)
    if scratch is None and len(stack) == 1:
        return bind(stack[0], target, writable=False)
    if not os.path.isdir(stack[0]):
        assert scratch is not None
        copy = os.path.join(scratch, "file")
        shutil.copy2(stack[0], copy, follow_symlinks=False)
        return bind(copy, target, writable=True)
    options = ["lowerdir=" + ":".join(layer.replace("\\", "\\\\").replace(":", "\\:") for layer in stack)]
    if scratch is None:
        options.append("ro")
    else:
        for name in ("upper", "work"):
            os.mkdir(os.path.join(scratch, name), 0o755)
            options.append(f"{name}dir={os.path.join(scratch, name)}")
    return {"type": "overlay", "source": "overlay", "destination": target, "options": options}


def _layers_at(layers: Sequence[str], path: str) -> list[str]:
    """The directories (or the one file) that make up ``path``, top first, as overlayfs would merge them.

    A layer may have a symlink where one above it has a directory: it is hidden, as is all below it, and must not be followed.
    """
    found: list[str] = []
    for layer in layers:
        here = layer
        opaque = _is_opaque(here) if path else False
        status = os.lstat(here)
        for part in filter(None, path.split("/")):
            here = os.path.join(here, part)
            try:
                status = os.lstat(here)
            except (FileNotFoundError, NotADirectoryError):
                break
            if not stat.S_ISDIR(status.st_mode):
                is_whole = here == os.path.join(layer, path) and stat.S_ISREG(status.st_mode)
                return [here] if is_whole and not found else found
            opaque = opaque or _is_opaque(here)
        else:
            found.append(here)
        if opaque:
            return found
    return found


def _is_opaque(directory: str) -> bool:
    try:
        return os.getxattr(directory, "trusted.overlay.opaque", follow_symlinks=False) == b"y"
    except OSError:
        return False


def missing(layers: Sequence[str], targets: Iterable[str]) -> tuple[str, ...]:
    """The targets and the directories that lead to them which no layer has, deepest first; without those reached by a symlink."""
    paths = {path for target in targets for path in _leading(target)}
    for layer in layers:
        fd = os.open(layer, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            paths = {path for path in paths if _is_missing(fd, path)}
        finally:
            os.close(fd)
    return tuple(sorted(paths, key=lambda path: (-path.count("/"), path)))


def _leading(path: str) -> Iterator[str]:
    path = path.strip("/")
    while path:
        yield path
        path = posixpath.dirname(path)


def _is_missing(layer_fd: int, path: str) -> bool:
    try:
        os.close(files.open_beneath(layer_fd, path, os.O_PATH | os.O_NOFOLLOW))
    except OSError as error:
        return error.errno == errno.ENOENT
    return False


def remove_stubs(upper: str, paths: Iterable[str]) -> None:
    """What was made only to mount on does not stay in the layer: empty directories and files of ``paths``, deepest first."""
    root_fd = os.open(upper, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for path in paths:
            parent, _, name = path.rpartition("/")
            with contextlib.suppress(OSError):
                fd = files.open_beneath(root_fd, parent or ".", os.O_RDONLY | os.O_DIRECTORY)
                try:
                    _remove_stub(fd, name)
                finally:
                    os.close(fd)
    finally:
        os.close(root_fd)


def _remove_stub(fd: int, name: str) -> None:
    before, status = os.fstat(fd), os.stat(name, dir_fd=fd, follow_symlinks=False)
    if stat.S_ISDIR(status.st_mode):
        os.rmdir(name, dir_fd=fd)
    elif stat.S_ISREG(status.st_mode) and not status.st_size:
        os.unlink(name, dir_fd=fd)
    os.utime(fd, ns=(before.st_atime_ns, before.st_mtime_ns))


def cache_directory(root: str, namespace: str, ident: str) -> str:
    """Where a cache mount lies: its id never becomes part of a path."""
    return os.path.join(root, hashlib.sha256(f"{namespace}\0{ident}".encode()).hexdigest()[:32])


def make_cache(directory: str, mount: RunMount, source: Source | None) -> None:
    """Make the directory of a cache mount when it is not there, with what ``source`` has at the mount's source path."""
    if os.path.isdir(directory):
        return
    fresh = f"{directory}.new-{os.getpid()}-{os.urandom(4).hex()}"
    os.makedirs(fresh, 0o700)
    try:
        if source is not None:
            _fill(fresh, mount, source)
        os.chown(fresh, mount.uid, mount.gid)
        os.chmod(fresh, mount.mode if mount.mode is not None else 0o755)
        with contextlib.suppress(FileExistsError):
            os.rename(fresh, directory)
            return
        shutil.rmtree(fresh)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def _fill(directory: str, mount: RunMount, source: Source) -> None:
    chosen = source.choose(mount.source or ".")
    items = tuple(Item(kind="tree", descriptor=0, path=one.path, entries=one.entries) for one in chosen if one.is_directory)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        place(fd, Plan(destination="/", items=items, keep_owner=True), [source.fd])
    finally:
        os.close(fd)


def context_path(source: Source, root: str, mount: RunMount) -> str:
    """The path on the host of a mount's source in the context, resolved inside it.  Raises FileNotFoundError, OSError.

    ``root``: the context unpacked. Where it was resolved is not where it lies, so it is looked at there: no symlink may be on the way.
    """
    resolved = source.resolved(mount.source)
    if resolved is None:
        raise FileNotFoundError(mount.source)
    root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(files.open_beneath(root_fd, resolved or ".", os.O_PATH))
    finally:
        os.close(root_fd)
    return os.path.join(root, resolved) if resolved else root
