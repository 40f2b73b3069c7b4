"""A start that starts nothing: the pure part of one, run ahead of time.

In the zygote it lets the interpreter specialise that code before anything is forked; in a waiting child it makes the pages private that
the start will write to, and only those: to make all of them private costs more than the whole start.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache

from wherry.runtime import defaults, plan, users

_SPECIALISED = 16  # calls after which the interpreter has made up its mind.  Source: CPython 3.11, Include/internal/pycore_code.h

_BIND = {"destination": "/etc/hosts", "type": "bind", "source": "/", "options": ["rbind", "rprivate"]}


@cache
def _launch() -> str:
    """In JSON, as it comes."""
    linux = {
        "cgroupsPath": "/rehearsal",
        "namespaces": [{"type": one} for one in ("mount", "pid", "network", "ipc", "uts", "cgroup")],
        "maskedPaths": defaults.masked_paths(),
        "readonlyPaths": defaults.READONLY_PATHS,
    }
    process = {"args": ["true"], "cwd": "/", "env": [defaults.PATH], "capabilities": {"bounding": ["CAP_CHOWN"]}}
    config = {"process": process, "hostname": "rehearsal", "mounts": [*defaults.mounts(), _BIND], "linux": linux}
    return json.dumps({"config": config, "rootfs": {"lower": ["/lower"], "upper": "/upper", "work": "/work"}})


def plan_start() -> plan.Plan:
    """Decode a launch, plan it, and find out who the user is, once.  Returns the plan, which is like that of most containers."""
    planned = plan.make(json.loads(_launch()), netns_fd=0)
    users.resolve(b"root:x:0:0:root:/root:/bin/sh\n", b"root:x:0:\n", "", ())
    return planned


def plan_birth() -> None:
    """The monitor's share of a start."""
    plan.birth(json.loads(_launch()))


def specialise(more: Callable[[], None]) -> None:
    """Let the interpreter learn the code of a start, and of ``more``: what it has learnt is in pages that every fork shares."""
    for _ in range(_SPECIALISED):
        plan_start()
        more()
