"""Programs that a config wants run around a container's life.  Source: OCI runtime-spec 1.2, config.md#posix-platform-hooks."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
from collections.abc import Iterator, Mapping
from typing import Any

from wherry.kernel import process

KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
_OUTPUT_BYTES = 4096


class HookFailed(Exception):
    """Which hook and why."""


def run(config: Mapping[str, Any], kind: str, document: Mapping[str, Any]) -> None:
    """Run the hooks of one kind in their order, in the bundle's directory.  Raises HookFailed at the first that fails."""
    for problem in problems(config, kind, document):
        raise HookFailed(problem)


def problems(config: Mapping[str, Any], kind: str, document: Mapping[str, Any]) -> Iterator[str]:
    """Run the hooks of one kind in their order, each when it is asked for; tell why one failed.  The state goes to their standard input."""
    directory = "/" if kind == "startContainer" else document["bundle"]  # the one kind that runs inside
    for hook in (config.get("hooks") or {}).get(kind) or ():
        problem = _run(hook, json.dumps(document).encode(), directory)
        if problem:
            yield f"error running {kind} hook {hook['path']}: {problem}"


def _run(hook: Mapping[str, Any], state: bytes, directory: str) -> str:
    """Why it failed, or ""."""
    state_fd = os.memfd_create("state", os.MFD_CLOEXEC)
    readable, writable = os.pipe2(os.O_CLOEXEC)
    try:
        os.write(state_fd, state)
        os.lseek(state_fd, 0, os.SEEK_SET)
        pid = os.fork()
        if pid == 0:
            _become(hook, state_fd, writable, directory)
        pidfd = os.pidfd_open(pid)
        os.close(writable)
        writable = -1
        try:
            ended = _wait(pidfd, hook.get("timeout"))
            said = _said(readable) if ended else ""
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        finally:
            os.close(pidfd)
    finally:
        for fd in (state_fd, readable, writable):
            if fd >= 0:
                os.close(fd)
    if not ended:
        return f"not done after {hook['timeout']} s"
    if not code:
        return ""
    return (f"exit status {code}" if code > 0 else f"signal {-code}") + (f", stderr: {said}" if said else "")


def _said(readable: int) -> str:
    """The beginning of its standard error; what it left running may still hold the other end."""
    os.set_blocking(readable, False)
    try:
        return os.read(readable, _OUTPUT_BYTES).decode(errors="replace").strip()
    except BlockingIOError:
        return ""


def _wait(pidfd: int, timeout: int | None) -> bool:
    """False, and it is killed, when it takes longer than ``timeout`` seconds."""
    waiting = select.poll()
    waiting.register(pidfd, select.POLLIN)
    if waiting.poll(timeout * 1000 if timeout else None):
        return True
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    return False


def _become(hook: Mapping[str, Any], state_fd: int, writable: int, directory: str) -> None:
    """In the child; never returns."""
    try:
        null = os.open("/dev/null", os.O_WRONLY)
        for number, fd in enumerate((state_fd, null, writable)):
            os.dup2(fd, number, inheritable=True)
        process.close_range(3, cloexec=True)
        try:
            os.chdir(directory)
        except OSError:  # the bundle may be gone when a container is deleted
            os.chdir("/")
        environment = dict(pair.split("=", 1) for pair in hook.get("env") or () if "=" in pair)
        os.execve(hook["path"], hook.get("args") or [hook["path"]], environment)
    except OSError as error:
        os.write(writable, f"{os.strerror(error.errno or errno.EIO)}\n".encode())
    os._exit(127)
