"""A warm interpreter for ``run``: `wherry.warm.serving` with workers that take a caller's place (`worker`).  The script is
``bin/wherry-runtime``."""

from __future__ import annotations

import os
import sys

from wherry.bundle import notify, worker
from wherry.kernel import process
from wherry.runtime import rehearsal
from wherry.warm import caller, leaving, serving

NAME = "wherry-oci"
_OF_ONE_CALLER = frozenset({"LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", notify.VARIABLE})


def start(directory: str, home: str) -> None:
    """Leave a server behind, unless there is one."""
    environment = {name: value for name, value in os.environ.items() if name not in _OF_ONE_CALLER}
    leaving.leave(directory, (f"{home}/python", "-I", "-m", "wherry.bundle.server", home), environment)


def serve(home: str, directory: str, reserves: worker.Reserves = worker.building) -> None:
    """For those whose script is in ``home``.  ``reserves``: how a worker has its next container ready."""
    process.prctl(process.PR_SET_DUMPABLE, 0)
    own = caller.world(os.getpid(), caller.read(os.getpid(), "status"))
    rehearsal.specialise(lambda: None)
    serving.serve(directory, home, NAME, lambda line, _: worker.live(line, own, reserves))


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2])
