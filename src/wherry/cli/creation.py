"""Create a container: the part that ``create`` and ``run`` share."""

from __future__ import annotations

import os
import sys

from wherry.cli import terminal
from wherry.cli.container_flags import create_body
from wherry.cli.flags import Failure, Invocation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def check_pull(invocation: Invocation) -> None:
    """Raises Failure for a ``--pull`` that means nothing."""
    wanted = invocation.text("pull")
    if wanted not in ("always", "missing", "never", ""):
        raise Failure(f'invalid pull option: \'{wanted}\': must be one of "always", "missing" or "never"', 125)


def create(invocation: Invocation, body: dict[str, Any], meanwhile: Callable[[], None] | None = None) -> str:
    """Create the container, pulling its image when that is wanted; its id.  ``meanwhile``: as of `Engine.post`.

    Raises ApiError, Failure.
    """
    with _CidFile(invocation.text("cidfile")) as cidfile:
        ident = _create(invocation, body, meanwhile)
        cidfile.write(ident)
    return ident


def _create(invocation: Invocation, body: dict[str, Any], meanwhile: Callable[[], None] | None) -> str:
    program = invocation.program
    image, platform = body["Image"], invocation.text("platform")
    if not image:
        raise Failure("invalid reference format")
    quiet = invocation.flag("quiet")
    if invocation.text("pull") == "always":
        from wherry.cli import pulling

        pulling.pull(program, image, platform=platform, quiet=quiet)
    made = _ask(invocation, body, meanwhile)
    if made is None:
        from wherry.cli import pulling

        if not quiet:
            print(f"Unable to find image '{pulling.with_tag(image)}' locally", file=sys.stderr, flush=True)
        pulling.pull(program, image, platform=platform, quiet=quiet)
        made = _ask(invocation, body, None, again=True)
        if made is None:
            raise Failure(f"the image {image} is gone again")
    for warning in made.get("Warnings") or ():
        print(f"WARNING: {warning}", file=sys.stderr)
    ident: str = made["Id"]
    return ident


def _ask(
    invocation: Invocation, body: dict[str, Any], meanwhile: Callable[[], None] | None, *, again: bool = False
) -> dict[str, Any] | None:
    """The answer, or None when the image is missing and may be pulled."""
    from wherry.client.engine import ApiError

    query = {"name": invocation.text("name") or None, "platform": invocation.text("platform") or None}
    try:
        made: dict[str, Any] = invocation.program.engine.post("/containers/create", query, body, meanwhile=meanwhile)
    except ApiError as error:
        if error.status == 404 and not again and invocation.text("pull") in ("missing", "") and _means_image(str(error)):
            return None
        if error.status == 400 and str(error).startswith(("invalid reference format", "error parsing specified platform")):
            raise Failure(str(error)) from None  # Docker's client finds that out itself
        raise
    return made


def _means_image(message: str) -> bool:
    return "No such image" in message or ("image with reference" in message and "platform" in message)


class _CidFile:
    """``--cidfile``: made before the container, whose id is lost otherwise; gone again where no container was made."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._written = False

    def __enter__(self) -> _CidFile:
        if self._path:
            try:
                self._file = open(self._path, "x", encoding="ascii")
            except FileExistsError:
                text = f"container ID file found, make sure the other container isn't running or delete {self._path}"
                raise Failure(text) from None
            except OSError as error:
                reason = (error.strerror or "").lower()
                raise Failure(f"failed to create the container ID file: open {self._path}: {reason}") from None
        return self

    def __exit__(self, *_: object) -> None:
        if self._path:
            self._file.close()
            if not self._written:
                os.unlink(self._path)

    def write(self, ident: str) -> None:
        if not self._path:
            return
        try:
            self._file.write(ident)
            self._file.flush()
        except OSError as error:
            raise Failure(f"failed to write the container ID ({ident}) to the file: {(error.strerror or '').lower()}") from None
        self._written = True


def body_of(invocation: Invocation) -> dict[str, Any]:
    """The API body, with the size of our terminal for a container that has one."""
    for address in invocation.texts("dns"):
        if address == "::1" or address.startswith("127."):
            print(f"WARNING: Localhost DNS ({address}) may fail in containers.", file=sys.stderr)
            break
    body = create_body(invocation)
    if body["Tty"] and (size := terminal.size(1)):
        body["HostConfig"]["ConsoleSize"] = list(size)
    return body


def status_of(message: str) -> int:
    """The exit code of a container that could not be made or started, from the daemon's message, as Docker's CLI tells them apart."""
    if any(text in message for text in ("executable file not found", "no such file or directory")):
        return 127
    if any(text in message for text in ("permission denied", "is a directory")):
        return 126
    return 125


def failure(verb: str, error: Exception) -> Failure:
    """What ``run`` and ``create`` print for ``error``, with the exit code it means."""
    from wherry.cli.main import describe

    message = describe(error) or str(error)
    status = error.status if isinstance(error, Failure) and error.status != 1 else status_of(message)
    return Failure(f"wherry: {message}\n\nRun 'wherry {verb} --help' for more information", status)
