"""Pull an image, as ``run``, ``create`` and ``pull`` do."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.program import Program


def pull(program: Program, image: str, *, platform: str = "", quiet: bool = False) -> None:
    """Pull ``image`` with the credentials kept for its registry; progress goes to standard error.  Raises ApiError, StreamError."""
    from wherry.cli import config, terminal
    from wherry.cli.progress import Display
    from wherry.spec import reference

    try:
        named = reference.parse(image).with_default_tag()
    except reference.InvalidReference as error:
        from wherry.cli.flags import Failure

        raise Failure(str(error)) from None
    credentials = config.load(program.config_dir).credentials(config.server_of(named.domain))
    headers = {"X-Registry-Auth": credentials.header()} if credentials else {}
    query = {"fromImage": named.familiar_name, "tag": named.digest or named.tag, "platform": platform}
    response = program.engine.stream("POST", "/images/create", query, headers=headers)
    size = terminal.size(2)
    Display((lambda _: None) if quiet else sys.stderr.write, size[1] if size and not quiet else 0).show_all(response)
    program.engine.done(response)
    sys.stderr.flush()


def with_tag(image: str) -> str:
    """``image`` with ``:latest`` where it has neither tag nor digest."""
    return image if "@" in image or ":" in image.rpartition("/")[2] else f"{image}:latest"
