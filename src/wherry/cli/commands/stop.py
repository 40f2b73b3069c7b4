"""``wherry stop``."""

from __future__ import annotations

from wherry.cli.flags import Command, Flag, Invocation
from wherry.cli.together import at_once


def run(invocation: Invocation) -> int:
    timeout = invocation.number("timeout") if "timeout" in invocation.given else None
    return at_once(invocation, "stop", {"signal": invocation.text("signal") or None, "t": timeout})


COMMAND = Command(
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Stop one or more running containers",
    run,
    flags=(
        Flag("signal", "string", "Signal to send, by name or number (default the container's)", short="s"),
        Flag("time", "int", alias_of="timeout"),
        Flag("timeout", "int", "Seconds to wait before killing; -1 waits for ever", short="t"),
    ),
    minimum=1,
)
