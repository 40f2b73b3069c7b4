"""Start the default daemon when nothing answers at the default address."""

from __future__ import annotations

import os
import sys
import time

from wherry.cli.flags import Failure
from wherry.client.http import ConnectError, connect

PATIENCE_S = 30.0
PAUSE_S = 0.004


def start(address: str) -> None:
    """Run the daemon detached and return once it accepts connections at ``address``.  Raises Failure when it does not come up.

    Two clients may do this at once: the daemon's own lock lets one live, and both find its socket.
    """
    if os.geteuid() != 0:
        raise Failure(f"no daemon listens at {address}, and only root can start one (rootless mode is not supported yet)")
    descriptor, log_path = _open_log()
    print(f"wherry: started the daemon (log: {log_path})", file=sys.stderr, flush=True)
    null = os.open(os.devnull, os.O_RDWR)
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "wherry.daemon"],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, descriptor, 1), (os.POSIX_SPAWN_DUP2, descriptor, 2)],
        setsid=True,
    )
    os.close(null)
    os.close(descriptor)
    _await_socket(pid, address, log_path)


def _open_log() -> tuple[int, str]:
    """The daemon's log, appended to: in the run directory, else (/run is read-only) in the user's state directory."""
    home = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    for directory in ("/run/wherry", os.path.join(home, "wherry")):
        try:
            os.makedirs(directory, mode=0o711, exist_ok=True)
            path = os.path.join(directory, "daemon.log")
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), path
        except OSError:
            continue
    raise Failure("cannot start the daemon: no place for its log: tried /run/wherry and " + home)


def _await_socket(pid: int, address: str, log_path: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    ended = False
    while time.monotonic() < deadline:
        try:
            connect(address).close()
            return
        except ConnectError:
            if ended:
                raise Failure(f"the daemon ended before it answered{_last_line(log_path)}\nIts log is {log_path}") from None
            ended = os.waitpid(pid, os.WNOHANG)[0] == pid  # once more after its end: another client's daemon may be the one that lives
            time.sleep(PAUSE_S)
    raise Failure(f"the daemon does not answer at {address} after {PATIENCE_S:.0f} s; its log is {log_path}")


def _last_line(log_path: str) -> str:
    with open(log_path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 2048))
        lines = file.read().decode("utf-8", "replace").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "")
    return f": {last}" if last else ""
