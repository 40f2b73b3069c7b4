"""Which of an index's images runs here.  Source: containerd's platform matching, as Docker uses it."""

from __future__ import annotations

import os
from collections.abc import Iterable

from wherry.errors import InvalidRequest, NotFound
from wherry.spec.image import Descriptor, Platform

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "i386": "386", "i686": "386", "armv7l": "arm", "armv6l": "arm", "armv8l": "arm"}
_ALIASES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "i386": "386", "armhf": "arm", "armel": "arm"}
_ARCHITECTURES = frozenset("386 amd64 arm arm64 loong64 mips mips64 mips64le mipsle ppc64 ppc64le riscv64 s390x wasm".split())
_SYSTEMS = frozenset({"linux", "windows", "darwin", "freebsd", "wasip1"})
_DEFAULT_VARIANTS = {"arm64": "v8", "arm": "v7"}


def host() -> Platform:
    """The platform of this machine."""
    machine = os.uname().machine
    variant = {"armv6l": "v6", "armv7l": "v7", "aarch64": "v8"}.get(machine, "")
    return Platform(os="linux", architecture=_MACHINES.get(machine, machine), variant=variant)


def parse(text: str) -> Platform:
    """Read ``os[/arch[/variant]]`` or ``arch``.  Raises InvalidRequest in Docker's words."""
    parts = text.lower().split("/")
    if len(parts) == 1 and parts[0] in _SYSTEMS:
        here = host()
        return Platform(os=parts[0], architecture=here.architecture, variant=here.variant)
    if len(parts) == 1:
        parts = ["linux", *parts]
    if not 2 <= len(parts) <= 3 or not all(parts):
        raise InvalidRequest(f'error parsing specified platform: "{text}": invalid platform format: invalid argument')
    system, architecture = parts[0], _ALIASES.get(parts[1], parts[1])
    if system not in _SYSTEMS or architecture not in _ARCHITECTURES:
        raise InvalidRequest(f'error parsing specified platform: "{text}": unknown operating system or architecture: invalid argument')
    variant = parts[2] if len(parts) == 3 else {"arm64": "v8", "armhf": "v7", "armel": "v6"}.get(parts[1], "")
    return Platform(os=system, architecture=architecture, variant=variant)


def show(platform: Platform) -> str:
    """``linux/arm64/v8``."""
    return "/".join(part for part in (platform.os, platform.architecture, platform.variant) if part)


def matches(wanted: Platform, offered: Platform) -> bool:
    """Whether an image for ``offered`` is one for ``wanted``; a variant that is not said is the usual one, an older ARM will do."""
    if (wanted.os, wanted.architecture) != (offered.os, _ALIASES.get(offered.architecture, offered.architecture)):
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
