"""What is inside images: endpoints of Wherry's own, under ``/wherry/v1/images``.

A path is text with ``\\xNN`` for bytes that are not UTF-8; ``raw_path`` is then its bytes in base64.
"""

from __future__ import annotations

from wherry.spec.docker.body import Body, shown


class FileEntry(Body):
    """One path.  ``type``: file, directory, symlink, character, block, fifo; ``change``: A, C or D where a layer is asked for.

    ``size``: of a regular file; ``layer``: the one that has it, 1 for the base. ``mode``: permission bits.
    """

    path: str = shown("")
    raw_path: str = ""
    type: str = shown("")
    mode: int = shown(0)
    uid: int = shown(0, "UID")
    gid: int = shown(0, "GID")
    size: int = shown(0)
    modified: str = ""
    target: str = ""
    links: int = 1
    layer: int = shown(0)
    change: str = ""


class LayerReport(Body):
    """One layer: what it did, and how many of its bytes no container sees.

    ``size``: as ``docker history`` has it; ``wasted``: of files that later layers change or delete, hard links once.
    """

    layer: int = shown(0)
    diff_id: str = shown("", "DiffID")
    size: int = shown(0)
    added: int = shown(0)
    changed: int = shown(0)
    deleted: int = shown(0)
    wasted: int = shown(0)
    created_by: str = shown("")


class LayersReport(Body):
    """GET /wherry/v1/images/{name}/layers."""

    id: str = shown("")
    size: int = shown(0)
    wasted: int = shown(0)
    layers: list[LayerReport] = shown([])


class WastedFile(Body):
    """A file of ``layer`` that no container sees, since ``by`` changed (``C``) or deleted (``D``) it."""

    path: str = shown("")
    raw_path: str = ""
    size: int = shown(0)
    layer: int = shown(0)
    by: int = shown(0)
    change: str = shown("")


class ImageDifference(Body):
    """One path that differs between two images: A only in the second, D only in the first, C in both.

    ``differs``: of a change, which of type, mode, owner, content, target, device, attributes. ``size_before``, ``size``: of files.
    """

    path: str = shown("")
    raw_path: str = ""
    change: str = shown("")
    type: str = shown("")
    size_before: int = shown(0)
    size: int = shown(0)
    differs: list[str] | None = None
