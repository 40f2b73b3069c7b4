"""``wherry pause``."""

from __future__ import annotations

from wherry.cli.flags import Command, Invocation
from wherry.cli.together import at_once


def run(invocation: Invocation) -> int:
    return at_once(invocation, "pause")


COMMAND = Command("CONTAINER [CONTAINER...]", "Pause all processes within one or more containers", run, minimum=1)
