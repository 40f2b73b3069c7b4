"""What is known of containers: one directory each below the root, locked while a command is at work in it.

A process is named by its id and the time it started, so that one who got the id later is never taken for it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from wherry.bundle.failures import Failure
from wherry.kernel import cgroup

OCI_VERSION = "1.2.0"
_NAME = re.compile(r"[A-Za-z0-9_+.-]{1,1024}")
_STATE, _CONFIG, _SOCKET, _NOTIFY = "state.json", "config.json", "start.sock", "notify"


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """``pid`` 0 until there is a process; ``groups``: directories of control groups made for it; ``created``: RFC 3339.

    Not ``complete``: its create runs hooks, or died while it did.
    """

    ident: str
    bundle: str
    rootfs: str
    created: str
    owner: str
    cgroups_path: str
    pid: int = 0
    start_time: int = 0
    groups: tuple[str, ...] = ()
    complete: bool = True
    annotations: dict[str, str]


class Place:
    """The directory of one container; hold it locked with `opened` or `made`: by ``lock``, which a process that lives on must close."""

    def __init__(self, root: str, ident: str) -> None:
        self.path = f"{root}/{ident}"
        self.ident = ident
        self.lock = -1

    @property
    def socket(self) -> str:
        """Where a created container waits for ``start``; absent once it was started."""
        return f"{self.path}/{_SOCKET}"

    @property
    def notify(self) -> str:
        """The directory of the socket to which a program says that it is ready; absent where nobody wants to know."""
        return f"{self.path}/{_NOTIFY}"

    def write(self, state: State) -> None:
        """Atomically."""
        text = json.dumps({name: getattr(state, name) for name in State.__slots__})
        _replace(f"{self.path}/{_STATE}", text)

    def write_config(self, config: dict[str, Any]) -> None:
        """The config as it was at create: the bundle may change afterwards."""
        _replace(f"{self.path}/{_CONFIG}", json.dumps(config))

    def state(self) -> State:
        """Raises Failure when it cannot be read."""
        try:
            with open(f"{self.path}/{_STATE}", encoding="utf-8") as file:
                values = json.load(file)
            return State(**{**values, "groups": tuple(values["groups"])})
        except FileNotFoundError:
            raise Failure(f"container {self.ident} was not finished by its create: delete it with --force") from None
        except (ValueError, TypeError, KeyError) as error:
            raise Failure(f"container {self.ident}: {_STATE} cannot be read: {error}") from None

    def has_state(self) -> bool:
        """Whether its create came so far."""
        return os.path.isfile(f"{self.path}/{_STATE}")

    def config(self) -> dict[str, Any]:
        with open(f"{self.path}/{_CONFIG}", encoding="utf-8") as file:
            found: dict[str, Any] = json.load(file)
        return found

    def remove(self) -> None:
        if os.path.isdir(self.notify):
            for name in os.listdir(self.notify):
                os.unlink(f"{self.notify}/{name}")
            os.rmdir(self.notify)
        for name in os.listdir(self.path):
            os.unlink(f"{self.path}/{name}")
        os.rmdir(self.path)


def check_name(ident: str) -> str:
    if not _NAME.fullmatch(ident) or ident in (".", ".."):
        raise Failure(f"invalid container ID format: {ident!r}")
    return ident


@contextlib.contextmanager
def made(root: str, ident: str) -> Iterator[Place]:
    """A new container's place, locked, gone again when the body fails.  Raises Failure when there is one."""
    place = Place(root, check_name(ident))
    os.makedirs(root, 0o711, exist_ok=True)
    try:
        os.mkdir(place.path, 0o711)
    except FileExistsError:
        raise Failure(f"container with given ID already exists: {ident}") from None
    fd = os.open(place.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        place.lock = fd
        yield place
    except BaseException:
        place.remove()
        raise
    finally:
        _unlock(fd)


def found(root: str, ident: str) -> Place:
    """An existing container's place for who only reads, not locked: a hook may ask while the command that runs it is at work."""
    place = Place(root, check_name(ident))
    if not os.path.isdir(place.path):
        raise Failure(f"container does not exist: {ident}")
    return place


def is_being_created(place: Place, state: State) -> bool:
    """Whether the hooks of its creation are running."""
    return not state.complete and _is_locked(place.path)


@contextlib.contextmanager
def opened(root: str, ident: str, *, awaits_creation: bool = False) -> Iterator[Place]:
    """An existing container's place, locked.

    Raises Failure when there is none, and while hooks of its creation run, which may be who asks, unless it ``awaits_creation``.
    """
    place = found(root, ident)
    if not awaits_creation and place.has_state() and is_being_created(place, place.state()):
        raise Failure(f"container {ident} is being created")
    while True:
        try:
            fd = os.open(place.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise Failure(f"container does not exist: {ident}") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            try:
                current = os.stat(place.path)
            except FileNotFoundError:
                continue  # deleted while we waited
            if os.path.samestat(os.fstat(fd), current):
                place.lock = fd
                yield place
                return
        finally:
            _unlock(fd)


def every(root: str) -> list[Place]:
    """All containers below the root, by name."""
    try:
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        return []
    places = (Place(root, name) for name in names)
    return [place for place in places if place.has_state()]


def start_time(pid: int) -> int:
    """When a process started, in ticks since boot; 0 when it is gone or only waits to be reaped.  Source: proc(5), stat."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    fields = text[text.rindex(b")") + 2 :].split()
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def is_alive(state: State) -> bool:
    return bool(state.pid) and start_time(state.pid) == state.start_time != 0


def status(place: Place, state: State, groups: cgroup.Hierarchies) -> str:
    """creating, created, running, paused or stopped."""
    if not state.pid:
        return "creating"
    if not is_alive(state):
        return "stopped"
    if cgroup.is_frozen(groups, state.cgroups_path):
        return "paused"
    return "created" if os.path.exists(place.socket) else "running"


@contextlib.contextmanager
def process(state: State) -> Iterator[int]:
    """A pidfd of the first process.  Raises Failure when it is gone."""
    try:
        pidfd = os.pidfd_open(state.pid) if state.pid else -1
    except OSError as error:
        if error.errno not in (errno.ESRCH, errno.EINVAL):
            raise
        pidfd = -1
    try:
        if pidfd < 0 or not is_alive(state):  # looked at after the pidfd was opened: from here on it is this process or none
            raise Failure("container not running")
        yield pidfd
    finally:
        if pidfd >= 0:
            os.close(pidfd)


def send_signal(state: State, number: int) -> None:
    with process(state) as pidfd:
        try:
            signal.pidfd_send_signal(pidfd, number)
        except ProcessLookupError:
            raise Failure("container not running") from None


def document(state: State, status_name: str) -> dict[str, Any]:
    """The OCI state object, that hooks read and ``state`` prints."""
    found: dict[str, Any] = {
        "ociVersion": OCI_VERSION,
        "id": state.ident,
        "status": status_name,
        "pid": 0 if status_name == "stopped" else state.pid,
        "bundle": state.bundle,
    }
    if state.annotations:
        found["annotations"] = state.annotations
    return found


def with_process(state: State, pid: int) -> State:
    return replace(state, pid=pid, start_time=start_time(pid))


def _is_locked(path: str) -> bool:
    """Whether a command is at work."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _unlock(fd: int) -> None:
    """Also for a process that was forked meanwhile and has the descriptor too."""
    fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)


def _replace(path: str, text: str) -> None:
    temporary = f"{path}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
    os.rename(temporary, path)
