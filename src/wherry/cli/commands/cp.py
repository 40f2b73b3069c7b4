"""``wherry cp``: between a container and this machine, by Docker's rules for what becomes of names."""

from __future__ import annotations

import binascii
import os
import stat
import sys

from wherry.cli.flags import Command, Failure, Flag, Invocation
from wherry.client import jsontext
from wherry.client.engine import ApiError, container_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from wherry.client.engine import Engine

GO_DIR, GO_SYMLINK = 1 << 31, 1 << 27
PIECE = 1 << 18


def run(invocation: Invocation) -> int:
    source, destination = invocation.arguments
    if not source:
        raise Failure("source can not be empty")
    if not destination:
        raise Failure("destination can not be empty")
    from_container, source_path = split_container(source)
    to_container, destination_path = split_container(destination)
    if from_container and to_container:
        raise Failure("copying between containers is not supported")
    if from_container:
        return _from_container(invocation, from_container, source_path, destination_path)
    if to_container:
        return _to_container(invocation, to_container, source_path, destination_path)
    raise Failure("must specify at least one container source")


def split_container(word: str) -> tuple[str, str]:
    """``CONTAINER:PATH`` as its two parts; a local path (absolute, or beginning with a dot, or without a colon) has no container."""
    name, colon, path = word.partition(":")
    if not colon or word.startswith("/") or word.startswith("."):
        return "", word
    return name, path


class Found:
    """What a path is: whether it exists, whether it is a directory, where a link leads."""

    def __init__(self, path: str, *, exists: bool, directory: bool, link: str = "") -> None:
        self.path = path
        self.exists = exists
        self.directory = directory
        self.link = link


def _to_container(invocation: Invocation, container: str, source: str, destination: str) -> int:
    engine = invocation.program.engine
    destination = _rooted(destination)
    found = _resolved(engine, container, destination)
    query = {"path": found.path, "noOverwriteDirNonDir": "true", "copyUIDGID": "true" if invocation.flag("archive") else None}
    if source == "-":
        if not found.directory:
            raise Failure(f'destination "{container}:{destination}" must be a directory')
        _put(engine, container, query, _read_input())
        return 0
    local, base = _local_source(source, follow=invocation.flag("follow-link"))
    is_directory = os.path.isdir(local) and not os.path.islink(local)
    folder, name = placement(source_base=base, source_directory=is_directory, destination=found)
    query["path"] = folder
    from wherry.cli.tar_writer import pack

    counted = _Counter(pack(local, name))
    try:
        _put(engine, container, query, counted)
    except OSError as error:
        raise Failure(f"{error.strerror}: {error.filename}") from None
    _tell(invocation, counted.total, f"{container}:{destination}")
    return 0


def placement(*, source_base: str, source_directory: bool, destination: Found) -> tuple[str, str]:
    """The directory to unpack in, and the name that the source's entry gets there.  Raises Failure.

    Source: Docker's archive.PrepareArchiveCopy, as ``docker cp`` documents it.
    """
    folder, base = split_path(destination.path)
    if destination.exists and destination.directory:
        return destination.path, source_base
    if destination.exists and source_directory:
        raise Failure("cannot copy directory")
    if not destination.exists and not source_directory and destination.path.endswith(("/", "/.")):
        raise Failure("no such directory")
    return folder, base


def split_path(path: str) -> tuple[str, str]:
    """Directory and base name of a path; the base of ``x/.`` is ``.``, a slash at the end does not count."""
    clean = os.path.normpath(path)
    if path.endswith("/.") or path == ".":
        return clean, "."
    return os.path.dirname(clean) or ".", os.path.basename(clean)


def _local_source(path: str, *, follow: bool) -> tuple[str, str]:
    """The path to read, and the name it is known by.  A trailing slash follows a link, as does ``follow``."""
    if not os.path.lexists(path):
        if os.path.lexists(path.rstrip("/")):
            raise Failure("not a directory")
        raise Failure(f"lstat {os.path.abspath(path)}: no such file or directory")
    base = split_path(path)[1]
    if follow or path.endswith("/") or base == ".":
        target = os.path.realpath(path)
        if not os.path.exists(target):
            raise Failure(f"lstat {target}: no such file or directory")
        return target, base
    return os.path.join(os.path.realpath(os.path.dirname(os.path.abspath(path))), os.path.basename(os.path.abspath(path))), base


def _from_container(invocation: Invocation, container: str, source: str, destination: str) -> int:
    engine = invocation.program.engine
    source = _rooted(source)
    base = split_path(source)[1]
    if destination != "-":
        _check_output(destination)
    if invocation.flag("follow-link"):
        found = _stat(engine, container, source)
        if found is not None and found.link:
            source = _link_target(source, found.link)
    response = engine.stream("GET", container_path(container, "archive"), {"path": source})
    if destination == "-":
        response.copy_to(1)
        engine.done(response)
        return 0
    from wherry.cli.tar_reader import Stream, unpack

    facts = _decode_stat(response.headers.get("x-docker-container-path-stat", ""))
    sent = str(facts["name"])
    is_directory = bool(facts["mode"] & GO_DIR)
    target = _local_destination(destination)
    folder, name = placement(source_base=base, source_directory=is_directory, destination=target)
    total = unpack(Stream(response), folder, _renamer(sent, name, whole=source.endswith("/.")), owners=invocation.flag("archive"))
    engine.done(response)
    _tell(invocation, total, destination)
    return 0


def _renamer(sent: str, name: str, *, whole: bool) -> Callable[[str], str]:
    """Entries come as ``sent/..``; the first part becomes ``name``, or all are put below ``name`` when the content alone was asked for."""

    def rename(entry: str) -> str:
        first, _, rest = entry.partition("/")
        if first == "." or (whole and first != sent):
            return f"{name}/{rest if first == '.' else entry}"
        return f"{name}/{rest}" if rest else name

    return rename


def _local_destination(path: str) -> Found:
    try:
        facts = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        if os.path.islink(path):
            target = os.path.join(os.path.dirname(path), os.readlink(path))
            return Found(target, exists=False, directory=False)
        return Found(path, exists=False, directory=False)
    return Found(path, exists=True, directory=stat.S_ISDIR(facts.st_mode))


def _check_output(path: str) -> None:
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise Failure(f'invalid output path: directory "{folder}" does not exist')
    if os.path.exists(path) and not (os.path.isdir(path) or os.path.isfile(path)):
        raise Failure(f'"{path}" must be a directory or a regular file')


def _rooted(path: str) -> str:
    """A container's path from its root, its ending (``/``, ``/.``) kept; none stays none, for the daemon to refuse."""
    if not path:
        return path
    clean = os.path.normpath("/" + path.lstrip("/"))
    if path.endswith("/.") or path == ".":
        return clean.rstrip("/") + "/."
    if path.endswith("/") and clean != "/":
        return clean + "/"
    return clean


def _resolved(engine: Engine, container: str, path: str) -> Found:
    """What is at ``path`` in the container, after one link; one that cannot be asked for is taken as absent, the daemon will tell."""
    found = _stat(engine, container, path)
    if found is not None and found.link:
        path = _link_target(path, found.link)
        found = _stat(engine, container, path)
    return found or Found(path, exists=False, directory=False)


def _link_target(path: str, target: str) -> str:
    return target if target.startswith("/") else os.path.join(os.path.dirname(path.rstrip("/")), target)


def _stat(engine: Engine, container: str, path: str) -> Found | None:
    try:
        response = engine.stream("HEAD", container_path(container, "archive"), {"path": path})
    except ApiError:
        return None
    engine.done(response)
    facts = _decode_stat(response.headers.get("x-docker-container-path-stat", ""))
    mode = facts["mode"]
    return Found(path, exists=True, directory=bool(mode & GO_DIR), link=facts["linkTarget"] if mode & GO_SYMLINK else "")


def _decode_stat(text: str) -> dict[str, Any]:
    try:
        facts = jsontext.parse(binascii.a2b_base64(text))
        return {"name": str(facts["name"]), "mode": int(facts["mode"]), "linkTarget": str(facts.get("linkTarget") or "")}
    except (ValueError, KeyError, TypeError):
        raise Failure("unable to decode container path stat header") from None


def _put(engine: Engine, container: str, query: dict[str, str | None], body: Iterator[bytes] | _Counter) -> None:
    response = engine.stream("PUT", container_path(container, "archive"), query, raw=iter(body))
    response.read()
    engine.done(response)


def _read_input() -> Iterator[bytes]:
    while piece := os.read(0, PIECE):
        yield piece


class _Counter:
    """Counts the bytes that pass."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self.total = 0

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self.total += len(piece)
            yield piece


def _tell(invocation: Invocation, total: int, destination: str) -> None:
    if invocation.flag("quiet") or not sys.stderr.isatty():
        return
    from wherry.cli.output import size

    print(f"Successfully copied {size(total, 3)} to {destination}", file=sys.stderr)


COMMAND = Command(
    "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n\twherry cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
    "Copy files/folders between a container and the local filesystem",
    run,
    flags=(
        Flag("archive", "bool", "Keep numeric owners", short="a"),
        Flag("follow-link", "bool", "Copy what a symbolic link SRC_PATH leads to", short="L"),
        Flag("quiet", "bool", "Tell nothing", short="q"),
    ),
    minimum=2,
    maximum=2,
)
