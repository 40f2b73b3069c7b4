"""A container made by another OCI runtime: runc, crun, or any program that takes their command line.

Its monitor is ours: it makes the bundle, lends its standard streams, adopts the container's first process when the runtime has ended, and
deletes what the runtime keeps. Each call of the runtime happens in a mount namespace of its own, so nothing is ever mounted on the host.
Source: OCI runtime command line interface; runc(8), crun(1).
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import select
import shutil
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from wherry.kernel import cgroup, mount, namespace, process, terminal
from wherry.runtime import bundle, copyup, mounting, users
from wherry.runtime.failure import LaunchFailure, StartFailure, words
from wherry.spec.settings import INITS

TASK = "failed to create task for container: failed to create shim task: OCI runtime create failed: "
_UNIFIED = "/sys/fs/cgroup/unified"
_PATIENCE_MS, _DELETE_PATIENCE_MS = 120_000, 10_000  # a runtime that takes longer is killed
_CONSOLE, _LOG, _PID = "console.sock", "log.json", "pid"
_LOG_TAIL_BYTES = 16 << 10


class Container:
    """One container of another runtime, from its bundle to its end."""

    def __init__(self, message: Mapping[str, Any], groups: cgroup.Hierarchies) -> None:
        self._message = message
        self._groups = groups
        self._command: list[str] = list(message["runtime"])
        self._bundle: str = message["bundle"]
        self._id: str = message["id"]

    def start(self, stdio: tuple[int, ...], netns_fd: int) -> tuple[int, int, int]:
        """Its first process as pid and pidfd, and the master of its terminal or -1.  Raises StartFailure; nothing is left then."""
        process.prctl(process.PR_SET_CHILD_SUBREAPER, 1)
        self._make_bundle()
        try:
            return self._create(stdio, netns_fd)
        except BaseException:
            self.delete()
            raise

    def delete(self) -> None:
        """Let the runtime forget the container, whatever has become of it, and remove the bundle."""
        quiet = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        with contextlib.suppress(OSError, StartFailure):
            self._call(["delete", "--force", self._id], lambda: None, (quiet,) * 3, _DELETE_PATIENCE_MS)
        os.close(quiet)
        shutil.rmtree(self._bundle, ignore_errors=True)

    def _make_bundle(self) -> None:
        if os.path.lexists(self._bundle):
            self.delete()  # a monitor died
        os.makedirs(f"{self._bundle}/rootfs", mode=0o700)

    def _create(self, stdio: tuple[int, ...], netns_fd: int) -> tuple[int, int, int]:
        arguments = ["create", "--bundle", self._bundle, "--pid-file", _PID]
        listener = self._listen() if self._message["terminal"] else None
        quiet = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        pidfd = master = -1
        try:
            if listener is not None:
                arguments += ["--console-socket", _CONSOLE]
            netns = f"/proc/{os.getpid()}/fd/{netns_fd}" if netns_fd >= 0 else ""
            self._checked(self._call([*arguments, self._id], lambda: self._furnish(netns), stdio or (quiet,) * 3))
            with open(f"{self._bundle}/{_PID}", encoding="ascii") as file:
                pid = int(file.read())
            pidfd = os.pidfd_open(pid)
            process.prctl(process.PR_SET_CHILD_SUBREAPER, 0)  # the first process is ours; others that lose their parent shall not be
            if listener is not None:
                master = self._receive_master(listener)
            self._checked(self._call(["start", self._id], lambda: None, (quiet,) * 3))
            return pid, pidfd, master
        except BaseException:
            for fd in (pidfd, master):
                if fd >= 0:
                    os.close(fd)
            raise
        finally:
            os.close(quiet)
            if listener is not None:
                listener.close()

    # -- the terminal

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        back = os.open(".", os.O_PATH | os.O_CLOEXEC)
        try:
            os.chdir(self._bundle)  # a socket's whole path may be too long
            listener.bind(_CONSOLE)
        finally:
            os.fchdir(back)
            os.close(back)
        listener.listen(1)
        listener.settimeout(_PATIENCE_MS / 1000)
        return listener

    def _receive_master(self, listener: socket.socket) -> int:
        fds = array.array("i")
        try:
            with listener.accept()[0] as connection:
                connection.settimeout(_PATIENCE_MS / 1000)
                for level, kind, data in connection.recvmsg(4096, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)[1]:
                    if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                        fds.frombytes(data[:4])
        except TimeoutError:
            pass
        if not fds:
            raise StartFailure(128, f"{TASK}the runtime sent no terminal", complete=True)
        height, width = self._message.get("console_size") or (0, 0)
        if height and width:
            terminal.set_size(fds[0], height=height, width=width)
        return fds[0]

    # -- in the runtime's process, before it is the runtime

    def _furnish(self, netns_path: str) -> None:
        """Mount the root file system in this namespace and write the config, which takes a look at the root's users."""
        rootfs = self._message["rootfs"]
        tree = mounting.assemble_root(tuple(rootfs["lower"]), rootfs["upper"], rootfs["work"])
        for entry in self._message.get("copy_ups") or ():
            volume = mount.open_tree(mount.AT_FDCWD, entry["source"])
            copyup.fill(tree, entry["destination"], volume)
            os.close(volume)
        who = users.resolve(*users.read(tree), self._message.get("user") or "", tuple(self._message.get("groups") or ()))
        mount.attach(tree, f"{self._bundle}/rootfs")
        config = bundle.configuration(self._message, who, netns_path=netns_path)
        with open(f"{self._bundle}/config.json", "w", encoding="utf-8") as file:
            json.dump(config, file)

    def _hide_unified(self) -> None:
        """crun refuses to work where a cgroup v2 hierarchy stands beside those of v1."""
        if self._groups.v2 is None and os.path.ismount(_UNIFIED):
            mount.umount2(_UNIFIED, mount.MNT_DETACH)

    # -- calls of the runtime

    def _call(self, arguments: list[str], prepare: Callable[[], None], stdio: tuple[int, ...], patience_ms: int = _PATIENCE_MS) -> int:
        """Run the runtime; its wait status.  ``prepare`` is done in its process first.  Raises StartFailure when it cannot be run."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self._bundle}/{_LOG}")
        options = ["--root", f"{self._bundle}/state", "--log", f"{self._bundle}/{_LOG}", "--log-format", "json"]
        readable, writable = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            os.close(readable)
            self._become([*self._command, *options, *arguments], prepare, stdio, writable)
        os.close(writable)
        with os.fdopen(readable, "rb") as report:
            failure = report.read()
        status = _wait(pid, patience_ms)
        if failure:
            told = json.loads(failure)
            raise StartFailure(told["code"], told["message"], complete=told["complete"])
        return status

    def _become(self, command: list[str], prepare: Callable[[], None], stdio: tuple[int, ...], report: int) -> None:
        """Never returns."""
        try:
            namespace.unshare(namespace.CLONE_NEWNS)
            mount.set_propagation("/", mount.MS_REC | mount.MS_SLAVE)
            self._hide_unified()
            prepare()
            os.chdir(self._bundle)
            for number, fd in enumerate(stdio):
                os.dup2(fd, number, inheritable=True)
            process.close_range(3, cloexec=True)
            process.default_signals()
            os.execve(self._program(), command, {"PATH": os.environ.get("PATH", os.defpath)})
        except StartFailure as failure:
            told: dict[str, Any] = {"code": failure.code, "message": failure.message, "complete": failure.complete}
        except BaseException as error:  # noqa: BLE001 -- the edge of a forked child: everything is reported, nothing may unwind further
            told = {
                "code": 126 if isinstance(error, PermissionError) else 128,
                "message": f"{TASK}{words(error)}: unknown",
                "complete": True,
            }
        os.write(report, json.dumps(told).encode())
        os._exit(255)

    def _program(self) -> str:
        name = self._command[0]
        if found := shutil.which(name):
            return found
        what = f"fork/exec {name}: no such file or directory" if "/" in name else f'exec: "{name}": executable file not found in $PATH'
        reason = f"unable to retrieve OCI runtime error (open {self._bundle}/{_LOG}: no such file or directory): {what}: unknown"
        raise StartFailure(127, TASK + reason, complete=True)

    def _checked(self, status: int) -> None:
        if status:
            raise self._failure(status)

    def _failure(self, status: int) -> StartFailure:
        """What the runtime wrote in its log, in the words Docker puts before it."""
        message = ""
        with contextlib.suppress(OSError), open(f"{self._bundle}/{_LOG}", "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _LOG_TAIL_BYTES))
            for entry in log_entries(file.read().decode(errors="replace")):
                message = str(entry.get("msg", "")) if entry.get("level") in ("error", "fatal") else message
        if not message:
            code = os.waitstatus_to_exitcode(status)
            message = f"{self._command[0]} did not terminate successfully: " + (f"exit status {code}" if code >= 0 else f"signal {-code}")
        return StartFailure(_code(message), TASK + message, complete=True)


def find_init(path: str) -> str:
    """What `--init` puts before a container's own program: ``path``, or where that is empty the first of `INITS`.  Raises LaunchFailure."""
    for name in [path] if path else INITS:
        if found := shutil.which(name):
            return found
    raise LaunchFailure(127, f'exec: "{path or INITS[0]}": executable file not found in $PATH')


def forget(place: str, cgroups_path: str) -> None:
    """What a runtime keeps of a container whose monitor is gone and whose processes have ended: its bundle and groups only it knows."""
    if os.path.lexists(place):
        shutil.rmtree(place, ignore_errors=True)
        cgroup.remove_elsewhere(cgroups_path)


def log_entries(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects of a runtime's log: one a line, or spread over lines as newer crun writes them; what is torn is left out."""
    decoder, position = json.JSONDecoder(), text.find("{")
    while position >= 0:
        try:
            entry, position = decoder.raw_decode(text, position)
        except ValueError:
            position += 1
        else:
            yield entry
        position = text.find("{", position)


def _code(message: str) -> int:
    """Docker's exit code for a runtime's words."""
    lower = message.lower()
    if "executable file not found" in lower or "no such file or directory" in lower or "system cannot find the file specified" in lower:
        return 127
    return 126 if "permission denied" in lower or "not a directory" in lower or "is a directory" in lower else 128


def _wait(pid: int, patience_ms: int) -> int:
    """The wait status of a child; one that does not end is killed."""
    pidfd = os.pidfd_open(pid)
    try:
        waiting = select.poll()
        waiting.register(pidfd, select.POLLIN)
        if not waiting.poll(patience_ms):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    finally:
        os.close(pidfd)
    return os.waitpid(pid, 0)[1]
