"""Archives in any compression, told by their first bytes, made plain for ADD."""

from __future__ import annotations

import os
from contextlib import ExitStack

from wherry.store.parsing import Start, inline
from wherry.tree.compression import kind_of
from wherry.tree.tar import BLOCK, InvalidArchive
from wherry.tree.tar_fields import is_header


def open_archive(source_fd: int, directory: str, start: Start = inline) -> int | None:
    """A descriptor of the plain tar inside a (maybe compressed) file, or None when there is no tar in it.

    A compressed one is made plain, by ``start``, in a file of ``directory`` that has no name. Raises InvalidArchive, OSError.
    """
    head = os.pread(source_fd, BLOCK, 0)
    kind = kind_of(head)
    if not kind:
        return os.dup(source_fd) if is_header(head) else None
    with ExitStack() as undo:
        target = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        undo.callback(os.close, target)
        os.lseek(source_fd, 0, os.SEEK_SET)
        job = start("plain", {"kind": kind, "only_tar": True}, [source_fd, target])
        try:
            job.result()
        except InvalidArchive:
            if is_header(os.pread(target, BLOCK, 0)):
                raise
        finally:
            job.end()
        if not is_header(os.pread(target, BLOCK, 0)):
            return None
        undo.pop_all()
    os.lseek(target, 0, os.SEEK_SET)
    return target
