"""File systems that nearly every container has, made before it is known for which: /proc, /dev with its nodes, /dev/pts and the like.

They are mounted nowhere, so nobody sees them until a step moves one into its place; one that a container wants otherwise is made anew.
They belong to the pid and ipc namespaces of the process that makes them, and show nothing of the host's mounts. /sys is not among them: it
belongs to the network namespace, which comes later.
"""

from __future__ import annotations

import contextlib

from wherry.runtime import devices, mounting
from wherry.runtime.plan import Plan
from wherry.runtime.steps import Key

_KINDS = frozenset({"proc", "tmpfs", "devpts", "mqueue"})


def make(planned: Plan) -> dict[Key, int]:
    """The file systems of a plan like most, as detached mounts.  What cannot be made is left out: whoever starts a container learns why."""
    made: dict[Key, int] = {}
    for step in planned.steps:
        if isinstance(step, mounting.Mount) and step.kind in _KINDS:
            with contextlib.suppress(OSError):
                tree = step.make()
                if step.destination == "/dev":
                    devices.fill_dev(devices.DEVICES, tree)
                made[step.key] = tree
    return made


def suiting(made: dict[Key, int], planned: Plan) -> dict[Key, int]:
    """What a plan can use: not a /dev whose usual nodes it has otherwise."""
    usual = any(isinstance(step, devices.MakeDevices) and set(devices.DEVICES) <= set(step.devices) for step in planned.steps)
    return made if usual else {key: tree for key, tree in made.items() if key[0] != "/dev"}
