"""What ``stop`` and ``restart`` have in common: a signal, and how long to wait for its effect."""

from __future__ import annotations

from wherry.cli.flags import Command, Flag, Invocation
from wherry.cli.together import at_once


def halting(verb: str, summary: str) -> Command:
    def run(invocation: Invocation) -> int:
        timeout = invocation.number("timeout") if "timeout" in invocation.given else None
        return at_once(invocation, verb, {"signal": invocation.text("signal") or None, "t": timeout})

    return Command(
        "[OPTIONS] CONTAINER [CONTAINER...]",
        summary,
        run,
        flags=(
            Flag("signal", "string", "Signal to send, by name or number (default the container's)", short="s"),
            Flag("time", "int", alias_of="timeout"),
            Flag("timeout", "int", "Seconds to wait before killing; -1 waits for ever", short="t"),
        ),
        minimum=1,
    )
