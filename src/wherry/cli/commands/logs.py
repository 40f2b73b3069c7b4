"""``wherry logs``."""

from __future__ import annotations

import sys

from wherry.cli.flags import Command, Failure, Flag, Invocation
from wherry.cli.session import Demultiplexer, write_all
from wherry.client.engine import container_path
from wherry.spec.moment import to_unix


def run(invocation: Invocation) -> int:
    name = invocation.arguments[0]
    query = {
        "stdout": True,
        "stderr": True,
        "since": _time(invocation, "since"),
        "until": _time(invocation, "until"),
        "timestamps": invocation.flag("timestamps"),
        "follow": invocation.flag("follow"),
        "tail": invocation.text("tail"),
        "details": invocation.flag("details"),
    }
    engine = invocation.program.engine
    response = engine.stream("GET", container_path(name, "logs"), query)
    framed = response.media_type == "application/vnd.docker.multiplexed-stream"
    if not framed and response.media_type != "application/vnd.docker.raw-stream":
        framed = not invocation.program.another_engine().get(container_path(name, "json"))["Config"]["Tty"]
    sys.stdout.flush()
    if framed:
        demultiplexer = Demultiplexer()
        for piece in response:
            demultiplexer.feed(memoryview(piece))
    else:
        for piece in response:
            write_all(1, piece)
    engine.done(response)
    return 0


def _time(invocation: Invocation, name: str) -> str | None:
    text = invocation.text(name)
    if not text:
        return None
    try:
        return to_unix(text)
    except ValueError as error:
        raise Failure(f'invalid value for "{name}": {error}') from None


COMMAND = Command(
    "[OPTIONS] CONTAINER",
    "Fetch the logs of a container",
    run,
    flags=(
        Flag("details", "bool", "Show the attributes that logging options add"),
        Flag("follow", "bool", "Go on as new output comes", short="f"),
        Flag("since", "string", "From this time on: 2013-01-02T13:23:37Z, Unix seconds, or 42m for as long ago"),
        Flag("tail", "string", "Lines to show from the end", short="n", default="all"),
        Flag("timestamps", "bool", "Show times", short="t"),
        Flag("until", "string", "Up to this time: 2013-01-02T13:23:37Z, Unix seconds, or 42m for as long ago"),
    ),
    minimum=1,
    maximum=1,
)
