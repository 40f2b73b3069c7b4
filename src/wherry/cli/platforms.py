"""Platforms as the API's queries take them."""

from __future__ import annotations


def platform_query(text: str, prefix: str = "invalid platform: ") -> str | None:
    """``os[/arch[/variant]]`` as JSON; None when it was not given.  Raises Failure in Docker's words, after ``prefix``."""
    if not text:
        return None
    from wherry.cli.flags import Failure
    from wherry.client import jsontext
    from wherry.spec.platform import InvalidPlatform, parse

    try:
        system, architecture, variant = parse(text)
    except InvalidPlatform as error:
        raise Failure(prefix + str(error)) from None
    found = {"architecture": architecture, "os": system}
    return jsontext.dump(found | {"variant": variant} if variant else found)
