"""``wherry kill``."""

from __future__ import annotations

from wherry.cli.flags import Command, Flag, Invocation
from wherry.cli.together import at_once


def run(invocation: Invocation) -> int:
    return at_once(invocation, "kill", {"signal": invocation.text("signal") or None})


COMMAND = Command(
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Kill one or more running containers",
    run,
    flags=(Flag("signal", "string", "Signal to send, by name or number (default KILL)", short="s"),),
    minimum=1,
)
