"""Platforms as people write them: ``linux/arm64/v8``.  Source: containerd's platform specifiers, as Docker reads them."""

from __future__ import annotations

import os
import re

TYPE_CHECKING = False  # typing costs 8 ms to import, and the command line reads platforms too
if TYPE_CHECKING:
    from typing import Final

_MACHINES: Final = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "i386": "386",
    "i686": "386",
    "armv7l": "arm",
    "armv6l": "arm",
    "armv8l": "arm",
}
_ALIASES: Final = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "i386": "386", "armhf": "arm", "armel": "arm"}
_ARCHITECTURES: Final = frozenset("386 amd64 arm arm64 loong64 mips mips64 mips64le mipsle ppc64 ppc64le riscv64 s390x wasm".split())
_SYSTEMS: Final = frozenset(
    "aix android darwin dragonfly freebsd illumos ios js linux netbsd openbsd plan9 solaris wasip1 windows zos".split()
)
_COMPONENT: Final = "^[A-Za-z0-9_.-]+$"
_SYSTEM: Final = re.compile(r"([A-Za-z0-9_-]+)(?:\(([A-Za-z0-9_.-]*)\))?")
_SYSTEM_SHOWN: Final = r"^([A-Za-z0-9_-]+)(?:\\(([A-Za-z0-9_.-]*)\\))?$"


class InvalidPlatform(ValueError):
    """A text that names no platform; the message is Docker's."""


def parse(text: str) -> tuple[str, str, str]:
    """Operating system, architecture and variant (often empty) of ``os``, ``arch`` or ``os/arch[/variant]``.  Raises InvalidPlatform."""
    parts = text.split("/", 3)
    for part in parts[1:]:
        if re.fullmatch(_COMPONENT[1:-1], part) is None:
            raise InvalidPlatform(
                f'"{part}" is an invalid component of "{text}": platform specifier component must match "{_COMPONENT}": invalid argument'
            )
    found = _SYSTEM.fullmatch(parts[0])
    if found is None:
        raise InvalidPlatform(
            f'"{parts[0]}" is an invalid OS component of "{text}": OSAndVersion specifier component must match "{_SYSTEM_SHOWN}": '
            "invalid argument"
        )
    if len(parts) > 3:
        raise InvalidPlatform(f'"{text}": cannot parse platform specifier: invalid argument')
    system = found[1].lower()
    if len(parts) == 1:
        return _alone(text, system)
    architecture, variant = _normal(parts[1], parts[2] if len(parts) == 3 else "")
    variant = "v8" if len(parts) == 3 and (architecture, variant) == ("arm64", "") else variant
    return "darwin" if system == "macos" else system, architecture, variant


def _alone(text: str, word: str) -> tuple[str, str, str]:
    if word in _SYSTEMS:
        return (word, *machine())
    architecture, variant = _normal(word, "")
    if architecture in _ARCHITECTURES:
        return "linux", architecture, variant
    raise InvalidPlatform(f'"{text}": unknown operating system or architecture: invalid argument')


def _normal(architecture: str, variant: str) -> tuple[str, str]:
    architecture, variant = architecture.lower(), variant.lower()
    variant = {"armel": "v6"}.get(architecture, variant)
    architecture = _ALIASES.get(architecture, architecture)
    if architecture == "arm":
        return architecture, f"v{variant}" if variant.isdigit() else variant
    return architecture, "" if (architecture, variant) in (("arm64", "8"), ("arm64", "v8"), ("amd64", "v1")) else variant


def alias(architecture: str) -> str:
    """The usual name of an architecture."""
    return _ALIASES.get(architecture, architecture)


def machine() -> tuple[str, str]:
    """Architecture and variant of this machine."""
    found = os.uname().machine
    return _MACHINES.get(found, found), {"armv6l": "v6", "armv7l": "v7", "aarch64": "v8"}.get(found, "")
