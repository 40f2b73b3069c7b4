"""``wherry inspect`` of any object, and ``wherry container inspect``."""

from __future__ import annotations

import sys

from wherry.cli.flags import Command, Failure, Flag, Invocation
from wherry.cli.inspection import Inspector, run_inspect
from wherry.cli.main import describe
from wherry.cli.template import TemplateError
from wherry.client.engine import ApiError, container_path
from wherry.client.http import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

TYPES = ("container", "image", "network", "volume")
ELSEWHERE = ("config", "node", "plugin", "secret", "service", "task")


def run_container(invocation: Invocation) -> int:
    return run_inspect(invocation.text("format"), invocation.arguments, _ways(invocation)["container"])


def run(invocation: Invocation) -> int:
    """Ask for each name as a container, an image, a network, a volume; the first that is one."""
    kind = invocation.text("type")
    ways = _ways(invocation)
    if kind in ELSEWHERE:
        raise Failure(f"wherry: inspect --type {kind} is not supported: there is no swarm and there are no plugins")
    if "type" in invocation.given and kind not in ways:
        known = ", ".join(f'"{name}"' for name in sorted((*TYPES, *ELSEWHERE)))
        raise Failure(f'unknown type: "{kind}": must be one of {known}' if kind else "type is empty: must be a valid object type")
    if kind:
        return run_inspect(invocation.text("format"), invocation.arguments, ways[kind])
    try:
        inspector = Inspector(invocation.text("format"))
    except TemplateError as error:
        raise TemplateError(f"template parsing error: {error}", 64) from None
    problems = []
    for name in invocation.arguments:
        try:
            inspector.add(_any(name, list(ways.values())))
        except ApiError as error:
            problems.append(describe(error) or str(error))
        except Failure as error:
            problems.append(str(error))
    sys.stdout.write(inspector.text())
    sys.stdout.flush()
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def _ways(invocation: Invocation) -> dict[str, Callable[[str], Any]]:
    """How each type of object is asked for."""
    engine = invocation.program.engine
    size = {"size": invocation.flag("size")}

    def image(name: str) -> Any:
        found = engine.get(f"/images/{quote(name, b'/:@')}/json")
        if size["size"]:
            sys.stderr.write("WARNING: --size ignored for image\n")
        return found

    return {
        "container": lambda name: engine.call("GET", container_path(name, "json"), size),
        "image": image,
        "network": lambda name: engine.get(f"/networks/{quote(name)}"),
        "volume": lambda name: engine.get(f"/volumes/{quote(name)}"),
    }


def _any(name: str, ways: list[Callable[[str], Any]]) -> Any:
    for ask in ways:
        try:
            return ask(name)
        except ApiError as error:
            if error.status != 404 and "invalid reference format" not in str(error):
                raise
    raise Failure(f"Error: No such object: {name}")


FORMAT = Flag("format", "string", "json, or a Go template", short="f")
SIZE = Flag("size", "bool", "Show sizes of containers", short="s")

COMMAND = Command(
    "[OPTIONS] NAME|ID [NAME|ID...]",
    "Return low-level information on objects of the engine",
    run,
    flags=(FORMAT, SIZE, Flag("type", "string", "Only objects of this type: container, image, network, volume")),
    minimum=1,
)

CONTAINER = Command(
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Display detailed information on one or more containers",
    run_container,
    flags=(FORMAT, SIZE),
    minimum=1,
)
