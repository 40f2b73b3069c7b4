"""Which of an index's images runs here.  Source: containerd's platform matching, as Docker uses it."""

from __future__ import annotations

from collections.abc import Iterable

from wherry.errors import InvalidRequest, NotFound
from wherry.spec import platform as names
from wherry.spec.image import Descriptor, Platform

_DEFAULT_VARIANTS = {"arm64": "v8", "arm": "v7"}


def host() -> Platform:
    """The platform of this machine."""
    architecture, variant = names.machine()
    return Platform(os="linux", architecture=architecture, variant=variant)


def parse(text: str) -> Platform:
    """Read ``os[/arch[/variant]]`` or ``arch``.  Raises InvalidRequest in Docker's words."""
    try:
        system, architecture, variant = names.parse(text)
    except names.InvalidPlatform as error:
        raise InvalidRequest(str(error)) from error
    return Platform(os=system, architecture=architecture, variant=variant)


def show(platform: Platform) -> str:
    """``linux/arm64/v8``."""
    return "/".join(part for part in (platform.os, platform.architecture, platform.variant) if part)


def matches(wanted: Platform, offered: Platform) -> bool:
    """Whether an image for ``offered`` is one for ``wanted``; a variant that is not said is the usual one, an older ARM will do."""
    if (wanted.os, wanted.architecture) != (offered.os, names.alias(offered.architecture)):
        return False
    usual = _DEFAULT_VARIANTS.get(wanted.architecture, "")
    want, offer = wanted.variant or usual, offered.variant or usual
    if wanted.architecture == "arm":
        return offer <= want
    return want == offer or not offered.variant


def select(manifests: Iterable[Descriptor], wanted: Platform) -> Descriptor:
    """The best manifest for ``wanted``; one that names no platform only when it is alone.  Raises NotFound in Docker's words."""
    entries = list(manifests)
    fitting = [item for item in entries if item.platform is not None and matches(wanted, item.platform)]
    if fitting:
        return max(fitting, key=lambda item: (item.platform.variant if item.platform else "") or "")
    if len(entries) == 1 and entries[0].platform is None:
        return entries[0]
    raise NotFound(f"no matching manifest for {show(wanted)} in the manifest list entries")
