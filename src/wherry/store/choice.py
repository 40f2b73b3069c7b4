"""Which snapshotter this machine gets."""

from __future__ import annotations

import os
import shutil
import tempfile

from wherry.kernel import mount
from wherry.spec.settings import Settings
from wherry.store.erofs import Erofs, erofs_works
from wherry.store.overlay import Overlay
from wherry.store.parsing import Start, inline
from wherry.store.records import Records
from wherry.store.snapshot import Snapshotter
from wherry.store.vfs import Vfs

_NAMES = (Erofs.name, Overlay.name, Vfs.name)


def choose(settings: Settings, records: Records, start: Start = inline) -> Snapshotter:
    """The snapshotter that the settings name, else the first of erofs, overlay and vfs that works in the data root.

    A data root with snapshots keeps the one it was begun with.  Raises ValueError for an unknown name, or one that differs from that.
    ``start``: who reads archives.
    """
    wanted = settings.snapshotter
    if wanted not in ("", *_NAMES):
        raise ValueError(f"unknown snapshotter {wanted!r}: use {', '.join(_NAMES[:-1])} or {_NAMES[-1]}")
    begun = records.resolve("setting", "snapshotter")
    if begun not in _NAMES:  # not there yet, or damaged
        begun = None
    if begun and wanted and begun != wanted and records.items("layer"):
        raise ValueError(f"the data root {settings.data_root} was begun with the snapshotter {begun!r}, not {wanted!r}")
    name = wanted or (begun if begun and records.items("layer") else "") or _best(settings.data_root)
    records.name("setting", "snapshotter", name)
    match name:
        case Erofs.name:
            return Erofs(settings.data_root, records, os.path.join(settings.run_root, "mounts"), start=start)
        case Overlay.name:
            return Overlay(settings.data_root, records, start=start)
        case _:
            return Vfs(settings.data_root, records, start=start)


def _best(data_root: str) -> str:
    if not overlay_works(data_root):
        return Vfs.name
    return Erofs.name if erofs_works(data_root) else Overlay.name


def overlay_works(data_root: str) -> bool:
    """Whether overlayfs accepts a writable layer in ``data_root``; the mount made to see is attached nowhere."""
    os.makedirs(data_root, mode=0o700, exist_ok=True)
    directory = tempfile.mkdtemp(dir=data_root, prefix="overlay-probe-")
    try:
        parts = [os.path.join(directory, part) for part in ("lower", "upper", "work")]
        for part in parts:
            os.mkdir(part)
        os.close(mount.overlay([parts[0]], parts[1], parts[2]))
        os.setxattr(parts[1], "trusted.overlay.opaque", b"y")
    except OSError:
        return False
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return True
