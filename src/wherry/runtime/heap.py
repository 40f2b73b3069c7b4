"""The zygote's memory, put in order before it forks.

A fork copies every page that it writes to, and an interpreter writes to all that it uses: to a reference count at least. So what forks use
is put together, and what they allocate too. Each page less is a page less in every monitor, and a page fault less in every start.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from types import FunctionType, ModuleType

_POOLED_BYTES = 512  # greater blocks are malloc's.  Source: CPython 3.11, Objects/obmalloc.c
_LONGEST_BYTES = 2048
_STEP_BYTES = 16
_BYTES_OVERHEAD = b"".__sizeof__()
_IN_ORDER = 8  # so many neighbours, and the memory is fresh or as good
_PATIENCE = 20_000


def gather(work: Callable[[], object], *modules: ModuleType) -> None:
    """Make the code of all functions that ``work`` calls anew, one after the other, and that of all functions of ``modules``."""
    called = set()
    sys.setprofile(lambda frame, *_: called.add(frame.f_code))
    try:
        work()
    finally:
        sys.setprofile(None)
    names = {module.__name__ for module in modules}
    functions = [one for one in gc.get_objects() if type(one) is FunctionType]
    hot = [one for one in functions if one.__code__ in called or (one.__module__ in names and "<locals>" not in one.__qualname__)]
    hot.sort(key=lambda one: one.__code__ not in called)
    old = [one.__code__ for one in hot]  # kept until the end, or the new would take their places
    for function in hot:
        function.__code__ = function.__code__.replace()
    del old


def fill_holes() -> list[bytes]:
    """Take the free blocks that lie between others.  Returns what holds them, to be kept.

    The neighbours that end the search of a size are given back: they lie together, and a fork may have them.
    """
    held: list[bytes] = []
    for size in range(48, _LONGEST_BYTES, _STEP_BYTES):
        distance = size if size <= _POOLED_BYTES else size + _STEP_BYTES
        last = run = 0
        for _ in range(_PATIENCE):
            block = bytes(size - _BYTES_OVERHEAD)
            held.append(block)
            run = run + 1 if id(block) == last + distance else 0
            last = id(block)
            if run == _IN_ORDER:
                del held[-_IN_ORDER:]
                break
    return held
