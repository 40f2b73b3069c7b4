"""Which credentials go with a request that reaches a registry."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
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


def auth_headers(program: Program, domain: str) -> dict[str, str]:
    """X-Registry-Auth for the registry at ``domain``; an empty object when nothing is known.  Raises ConfigError."""
    from wherry.cli.config import encode_header, load, server_of

    known = load(program.config_dir).credentials(server_of(domain))
    return {"X-Registry-Auth": known.header() if known is not None else encode_header({})}


def all_auth_headers(program: Program) -> dict[str, str]:
    """X-Registry-Config with the credentials of every registry, as a build may need them.  Raises ConfigError."""
    from wherry.cli.config import encode_header, load

    return {"X-Registry-Config": encode_header(load(program.config_dir).all_credentials())}
