"""Which credentials go with a request that reaches a registry."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.config import Credentials
    from wherry.cli.program import Program
    from wherry.spec.reference import Reference


def read_reference(text: str) -> Reference:
    """``text`` as an image name.  Raises Failure in Docker's words."""
    from wherry.cli.flags import Failure
    from wherry.spec.reference import InvalidReference, parse

    try:
        return parse(text)
    except InvalidReference as error:
        raise Failure(str(error)) from None


def known_credentials(program: Program, domain: str) -> Credentials | None:
    """What is known for the registry at ``domain``; what keeps it from being known is told, and may not matter there."""
    from wherry.cli.config import ConfigError, server_of

    try:
        return program.stored_config().credentials(server_of(domain))
    except ConfigError as error:
        program.warn_once(f"WARNING: {error}")
        return None


def auth_headers(program: Program, domain: str, *, needed: bool = False) -> dict[str, str]:
    """X-Registry-Auth for the registry at ``domain``; an empty object when nothing is known.

    ``needed``: raises ConfigError when it can't be known.
    """
    from wherry.cli.config import encode_header, server_of

    known = program.stored_config().credentials(server_of(domain)) if needed else known_credentials(program, domain)
    return {"X-Registry-Auth": known.header() if known is not None else encode_header({})}


def all_auth_headers(program: Program) -> dict[str, str]:
    """X-Registry-Config with the credentials of every registry, as a build may need them."""
    from wherry.cli.config import ConfigError, encode_header

    try:
        known = program.stored_config().all_credentials()
    except ConfigError as error:
        program.warn_once(f"WARNING: {error}")
        known = {}
    return {"X-Registry-Config": encode_header(known)}
