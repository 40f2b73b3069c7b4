"""File systems that nearly every container has, made before it is known for which: /proc, /dev with its nodes, /dev/pts and the like.

They are mounted nowhere, so nobody sees them until a step moves one into its place; one that a container wants otherwise is made anew.
They belong to the pid and ipc namespaces of the process that makes them, and show nothing of the host's mounts. /sys belongs to the network
namespace, so only who is in the container's already makes that too.
"""

from __future__ import annotations

import contextlib
import os
import posixpath

from wherry.kernel import files
from wherry.runtime import devices, mounting
from wherry.runtime.plan import Plan
from wherry.runtime.steps import Key

KINDS = frozenset({"proc", "tmpfs", "devpts", "mqueue"})


def make(planned: Plan, kinds: frozenset[str] = KINDS) -> dict[Key, int]:
    """The file systems of a plan like most, as detached mounts.  What cannot be made is left out: whoever starts a container learns why.

    ``kinds``: types of file systems whose namespaces are the container's.
    """
    made: dict[Key, int] = {}
    for step in planned.steps:
        if isinstance(step, mounting.Mount) and step.kind in kinds:
            with contextlib.suppress(OSError):
                tree = step.make()
                if step.destination == "/dev":
                    devices.fill_dev(devices.DEVICES, tree)
                    for name in _within_dev(planned):
                        os.close(files.mkdirs_in_root(tree, name, 0o755))
                made[step.key] = tree
    return made


def suiting(made: dict[Key, int], planned: Plan) -> dict[Key, int]:
    """What a plan can use: not a /dev whose usual nodes it has otherwise, or with a directory that it does not mount anything on."""
    usual = any(isinstance(step, devices.MakeDevices) and set(devices.DEVICES) <= set(step.devices) for step in planned.steps)
    within = {posixpath.basename(key[0]) for key in made if posixpath.dirname(key[0]) == "/dev"}
    if usual and within <= set(_within_dev(planned)):
        return made
    return {key: tree for key, tree in made.items() if key[0] != "/dev"}


def _within_dev(planned: Plan) -> list[str]:
    """Names in /dev that file systems are mounted on."""
    found = [step.destination for step in planned.steps if isinstance(step, mounting.Mount) and step.kind in KINDS]
    return [posixpath.basename(one) for one in found if posixpath.dirname(one) == "/dev"]
