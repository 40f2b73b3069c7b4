"""The host's configured Debian package sources, read for use in an image.

Both forms are understood: one-line ``.list`` files and deb822 ``.sources`` files.  Source: sources.list(5).
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

DIRECTORY = "/etc/apt"
ALIASES = ("stable", "testing", "oldstable")
POCKETS = ("-updates", "-security", "-backports", "/updates", "-proposed-updates")
KEPT_FIELDS = ("Architectures", "Languages", "Targets", "Check-Valid-Until", "Signed-By")


class Source:
    """One stanza: where from, which suites and components, and the other fields that matter."""

    __slots__ = ("components", "fields", "suites", "uris")

    def __init__(self, uris: list[str], suites: list[str], components: list[str], fields: dict[str, str]) -> None:
        self.uris = uris
        self.suites = suites
        self.components = components
        self.fields = fields

    def text(self) -> str:
        """As a deb822 stanza."""
        lines = ["Types: deb", f"URIs: {' '.join(self.uris)}", f"Suites: {' '.join(self.suites)}"]
        lines += [f"Components: {' '.join(self.components)}"] if self.components else []
        return "\n".join([*lines, *(f"{name}: {value}" for name, value in self.fields.items())]) + "\n"

    @property
    def keyring(self) -> str:
        """The path of the keyring that signs it; empty when it is not a file."""
        value = self.fields.get("Signed-By", "").strip()
        return value if value.startswith("/") else ""


def read(directory: str = DIRECTORY) -> list[Source]:
    """All enabled binary sources."""
    found: list[Source] = []
    for path in _files(directory):
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read()
        found += list(parse_stanzas(text) if path.endswith(".sources") else parse_lines(text))
    return found


def _files(directory: str) -> Iterator[str]:
    main = os.path.join(directory, "sources.list")
    if os.path.isfile(main):
        yield main
    parts = os.path.join(directory, "sources.list.d")
    if os.path.isdir(parts):
        yield from (os.path.join(parts, name) for name in sorted(os.listdir(parts)) if name.endswith((".list", ".sources")))


def parse_stanzas(text: str) -> Iterator[Source]:
    """deb822: stanzas of fields, whose values may go on in indented lines."""
    for stanza in text.replace("\r\n", "\n").split("\n\n"):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.split("\n"):
            if line.startswith("#") or not line.strip():
                continue
            if line[0] in " \t" and name:
                fields[name] += "\n" + line
                continue
            key, _, value = line.partition(":")
            name = "-".join(word.capitalize() for word in key.strip().split("-")).replace("Uris", "URIs")
            fields[name] = value.strip()
        enabled = fields.get("Enabled", "yes").lower() not in ("no", "false", "0")
        if enabled and "deb" in fields.get("Types", "").split():
            others = {key: fields[key] for key in KEPT_FIELDS if key in fields}
            yield Source(fields.get("URIs", "").split(), fields.get("Suites", "").split(), fields.get("Components", "").split(), others)


def parse_lines(text: str) -> Iterator[Source]:
    """``deb [option=value ...] uri suite component...``"""
    names = {"signed-by": "Signed-By", "arch": "Architectures", "lang": "Languages", "check-valid-until": "Check-Valid-Until"}
    for line in text.splitlines():
        line = line.partition("#")[0].strip()
        if not line.startswith(("deb ", "deb\t", "deb[")):
            continue
        line = line[3:].strip()
        fields: dict[str, str] = {}
        if line.startswith("["):
            options, _, line = line[1:].partition("]")
            for option in options.split():
                key, _, value = option.partition("=")
                if key in names:
                    fields[names[key]] = value.replace(",", " ")
        words = line.split()
        if len(words) >= 2:
            yield Source(words[:1], words[1:2], words[2:], fields)


def for_suite(sources: list[Source], host_suite: str, suite: str) -> list[Source]:
    """Those of the distribution itself, for ``suite`` in place of the host's own; reached over the network, without passwords."""
    chosen = []
    for source in sources:
        suites = [renamed for name in source.suites if (renamed := _renamed(name, host_suite, suite))]
        uris = [
            uri for uri in source.uris if uri.startswith(("http://", "https://")) and "@" not in uri.partition("://")[2].partition("/")[0]
        ]
        if suites and uris:
            chosen.append(Source(uris, suites, source.components, source.fields))
    return chosen


def _renamed(name: str, host_suite: str, suite: str) -> str:
    for known in (host_suite, suite, *ALIASES):
        if name == known or (name.startswith(known) and name[len(known) :] in POCKETS):
            return suite + name[len(known) :]
    return ""


def os_release(path: str = "/etc/os-release") -> dict[str, str]:
    """The fields of os-release(5); empty when there is none."""
    if not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8") as file:
        pairs = (line.rstrip("\n").partition("=") for line in file if "=" in line and not line.startswith("#"))
        return {key: value.strip().strip("\"'") for key, _, value in pairs}
