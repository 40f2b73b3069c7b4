"""What COPY, ADD and WORKDIR are to place: sources, destination, owner and mode, as values that cross to the task that does it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from wherry.tree.ownership import apply_mode


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One source.  ``descriptor``: index of the source's root (or of the tar) among the descriptors.

    ``kind``: ``tree`` (the content of directory ``path``: ``entries``, relative to it, parents before children), ``file`` (``path``
    itself, to be called ``name``) or ``tar`` (unpacked at the destination). With ``packed`` there is no such directory: it tells of each
    entry, or of the file, what a directory would, and its bytes are somewhere in the descriptor. ``mtime_ns``: what the destination's time
    becomes, that of the tree's own directory; None: the current time.
    """

    kind: str
    descriptor: int
    path: str = ""
    name: str = ""
    entries: tuple[str, ...] = ()
    packed: tuple[Packed, ...] = ()
    mtime_ns: int | None = None


class Packed(NamedTuple):
    """An inode whose bytes lie in an archive.  ``identity``: equal for the names of one inode, -1 for one with a single name.

    ``descriptor`` counts from the item's; ``link``: a symlink's text; ``attributes``: pairs of a name and its value in hexadecimal.
    """

    mode: int
    size: int = 0
    mtime_ns: int = 0
    descriptor: int = 0
    offset: int = 0
    identity: int = -1
    link: str = ""
    attributes: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one COPY does.  ``owner``: ``user[:group]`` or empty for root, or for the source's own owners when ``keep_owner``.

    ``mode``: octal or symbolic, or empty for the source's. ``directory``: the destination is one, whatever is there. ``replace_links``: a
    symlink at the destination is replaced, not followed (--link).
    """

    destination: str
    items: tuple[Item, ...]
    owner: str = ""
    keep_owner: bool = False
    mode: str = ""
    directory: bool = False
    replace_links: bool = False

    @property
    def directory_mode(self) -> int:
        """Of the directories that lead to the destination, where they are missing: under BuildKit's umask, and without set-id bits."""
        return apply_mode(self.mode, 0o755, directory=True) & 0o755 if self.mode else 0o755

    def to_json(self) -> dict[str, Any]:
        items = [
            {
                **{"kind": item.kind, "descriptor": item.descriptor, "path": item.path, "name": item.name},
                **{"entries": list(item.entries), "packed": list(item.packed), "mtime_ns": item.mtime_ns},
            }
            for item in self.items
        ]
        return {
            "destination": self.destination,
            "items": items,
            "owner": self.owner,
            "keep_owner": self.keep_owner,
            "mode": self.mode,
            "directory": self.directory,
            "replace_links": self.replace_links,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Plan:
        items = tuple(
            Item(**{**item, "entries": tuple(item["entries"]), "packed": tuple(Packed(*one) for one in item["packed"])})
            for item in data["items"]
        )
        return cls(**{**data, "items": items})
