"""``wherry events``."""

from __future__ import annotations

import sys
import time

from wherry.cli.flags import Command, Failure, Flag, Invocation, filters
from wherry.client import jsontext
from wherry.spec.moment import to_unix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


NOTHING: dict[str, Any] = {"Type": "", "Action": "", "Actor": {"ID": "", "Attributes": None}}


def run(invocation: Invocation) -> int:
    query = {
        "since": _time(invocation, "since"),
        "until": _time(invocation, "until"),
        "filters": filters(invocation.texts("filter")),
    }
    layout = invocation.text("format")
    try:
        show = _printer(layout)
    except Failure as error:
        raise Failure(f"Error parsing format: {error}", 64) from None
    engine = invocation.program.engine
    response = engine.stream("GET", "/events", query)
    rest = ""
    for piece in response:
        events, rest = jsontext.parse_many(rest + piece.decode("utf-8", "replace"))
        sys.stdout.write("".join(show(event) + "\n" for event in events))
        sys.stdout.flush()
    engine.done(response)
    return 0


def _printer(layout: str) -> Callable[[dict[str, Any]], str]:
    if layout in ("json", "{{json .}}"):
        return jsontext.dump
    if not layout:
        return line
    from wherry.cli.template import Template

    template = Template(layout.replace("\\t", "\t").replace("\\n", "\n"))
    template.render(_fields(NOTHING))  # a wrong field is told at once, not when something happens
    return lambda event: template.render(_fields(event))


def _fields(event: dict[str, Any]) -> Any:
    """What a template sees: the old fields go by Go's names there."""
    from wherry.cli.typed import typed

    old = {"Status": "status", "ID": "id", "From": "from", "Scope": "scope", "Time": "time", "TimeNano": "timeNano"}
    view = typed({**event, **{name: event.get(key, "") for name, key in old.items()}})
    view.go_type = "*events.Message"
    return view


def line(event: dict[str, Any]) -> str:
    """``TIME TYPE ACTION ID (ATTRIBUTES)``."""
    moment = event.get("timeNano") or event["time"] * 10**9
    local = time.localtime(moment // 10**9)
    zone = time.strftime("%z", local)
    stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', local)}.{moment % 10**9:09d}{'Z' if zone == '+0000' else zone[:3] + ':' + zone[3:]}"
    actor = event.get("Actor") or {}
    attributes = actor.get("Attributes") or {}
    shown = ", ".join(f"{key}={attributes[key]}" for key in sorted(attributes))
    return f"{stamp} {event['Type']} {event['Action']} {actor.get('ID', '')}" + (f" ({shown})" if shown else "")


def _time(invocation: Invocation, name: str) -> str | None:
    text = invocation.text(name)
    try:
        return to_unix(text) if text else None
    except ValueError as error:
        raise Failure(str(error)) from None


COMMAND = Command(
    "[OPTIONS]",
    "Get real time events from the server",
    run,
    flags=(
        Flag("filter", "filter", "Condition KEY=VALUE", short="f"),
        Flag("format", "string", "json, or a Go template"),
        Flag("since", "string", "Show all events from this time on"),
        Flag("until", "string", "Stop at this time"),
    ),
    maximum=0,
)
