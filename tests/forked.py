"""Work in a forked child of the test's own process: for what changes a process for good."""

from __future__ import annotations

import os
import select
import signal
import traceback
from collections.abc import Callable

FAILED = 255


def exit_code(work: Callable[[], int | None], *, timeout_s: float = 60) -> int:
    """What the child ends with: the value of ``work`` or 0; `FAILED`, with a traceback on standard error, where it raises.

    ``work`` must take no lock: another thread may have held it when the child was forked. One that goes on for too long is killed.
    """
    pid = os.fork()
    if pid == 0:
        code = FAILED
        try:
            code = work() or 0
        except BaseException:  # noqa: BLE001 -- the edge of a forked child
            traceback.print_exc()
        finally:
            os._exit(code)  # whatever happens, a second copy of the tests does not go on
    pidfd = os.pidfd_open(pid)
    try:
        if not select.select([pidfd], [], [], timeout_s)[0]:
            raise TimeoutError(f"child {pid} goes on after {timeout_s:g} s")
    finally:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        os.close(pidfd)
    return os.waitstatus_to_exitcode(status)
