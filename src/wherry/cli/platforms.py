"""Platforms as the API's queries take them."""

from __future__ import annotations


def platform_query(text: str) -> str | None:
    """``os[/arch[/variant]]`` as JSON; None when it was not given."""
    if not text:
        return None
    from wherry.client import jsontext

    return jsontext.dump(dict(zip(("os", "architecture", "variant"), text.split("/", 2), strict=False)))
