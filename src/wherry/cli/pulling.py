"""Pull an image, as ``run``, ``create`` and ``pull`` do."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.program import Program


def pull(program: Program, image: str, *, platform: str = "", quiet: bool = False) -> None:
    """Pull ``image`` with the credentials kept for its registry; progress goes to standard error.  Raises ApiError, StreamError."""
    from wherry.cli import terminal
    from wherry.cli.progress import Display
    from wherry.cli.registry_auth import auth_headers, read_reference

    named = read_reference(image).with_default_tag()
    query = {"fromImage": named.familiar_name, "tag": named.digest or named.tag, "platform": platform or None}
    response = program.engine.stream("POST", "/images/create", query, headers=auth_headers(program, named.domain))
    size = terminal.size(2)
    Display(_nothing if quiet else sys.stderr.write, size[1] if size and not quiet else 0).show_all(response)
    program.engine.done(response)
    sys.stderr.flush()


def _nothing(text: str) -> None:
    """Where progress goes when none is wanted."""


def with_tag(image: str) -> str:
    """``image`` with ``:latest`` where it has neither tag nor digest."""
    return image if "@" in image or ":" in image.rpartition("/")[2] else f"{image}:latest"
