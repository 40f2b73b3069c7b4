"""Which of an index's images runs here.  Source: containerd's platform matching, as Docker uses it."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

from wherry.errors import InvalidRequest, NotFound
from wherry.spec import platform as names
from wherry.spec.image import Descriptor, Platform

_LEVELS = (  # what 2, 3 and 4 add, by the names of /proc/cpuinfo
    "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3",
    "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave",
    "avx512f avx512bw avx512cd avx512dq avx512vl",
)
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
    if wanted.architecture == "amd64":
        return _level(offer) <= (_level(want) if want else host_level())
    return want == offer or not offered.variant


def _level(variant: str) -> int:
    """Of x86-64, by ``v2`` and the like; none is 1, another word is beyond all."""
    return int(variant[1:]) if re.fullmatch(r"v[1-9]", variant) else 99 if variant else 1


@functools.cache
def host_level() -> int:
    """The highest level of x86-64 that this machine's processor has; 1 for another.  Source: x86-64 psABI, micro-architecture levels."""
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        found = set(next((line for line in file if line.startswith("flags")), "").split())
    level = 1
    for flags in _LEVELS:
        if not found.issuperset(flags.split()):
            break
        level += 1
    return level


def select(manifests: Iterable[Descriptor], wanted: Platform) -> Descriptor:
    """The best manifest for ``wanted``; one that names no platform only when it is alone.  Raises NotFound in Docker's words."""
    entries = list(manifests)
    fitting = [item for item in entries if item.platform is not None and matches(wanted, item.platform)]
    if fitting:
        return max(fitting, key=lambda item: (item.platform.variant if item.platform else "") or "")
    if len(entries) == 1 and entries[0].platform is None:
        return entries[0]
    raise NotFound(f"no matching manifest for {show(wanted)} in the manifest list entries")
