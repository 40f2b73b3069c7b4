"""Why a first process did not start its program: an exit code and the words Docker has for it."""

from __future__ import annotations

import os

CREATE = (
    "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed: "
    "unable to start container process: error during container init: "
)
EXEC = "OCI runtime exec failed: exec failed: unable to start container process: "


def words(error: BaseException) -> str:
    """What people read of an error: no numbers, and the path it concerns."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    return f"{error.strerror}: {error.filename}" if error.filename else error.strerror


def lowered(error: OSError) -> str:
    """What the kernel says, as Go writes it."""
    text = os.strerror(error.errno or 0)
    return text[:1].lower() + text[1:]


class LaunchFailure(Exception):
    """``message`` is complete (Docker's ``State.Error``); ``code``: 126 cannot be executed, 127 not found, 128 anything else."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class StartFailure(Exception):
    """Raised inside a first process; whoever reports it puts the right beginning before it unless it is ``complete``."""

    def __init__(self, code: int, message: str, *, complete: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.complete = complete
