"""Changes in folders."""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from wherry.engine.changes import Changes


def test_all_who_watch_a_folder_are_told_by_one_descriptor(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()

    async def scenario() -> None:
        changes, descriptors = Changes(), len(os.listdir("/proc/self/fd"))
        with ExitStack() as watching:  # more than the 128 inotify descriptors that Linux gives a user
            told = [watching.enter_context(changes.of(str(one))) for _ in range(300)]
            silent = watching.enter_context(changes.of(str(other)))
            assert len(os.listdir("/proc/self/fd")) == descriptors + 1
            (one / "log").write_text("line")
            async with asyncio.timeout(10):
                for event in told:
                    await event.wait()
            assert not silent.is_set()
        with changes.of(str(other)) as event:  # the last who left closed the descriptor, the next opens one
            (other / "log").write_text("line")
            async with asyncio.timeout(10):
                await event.wait()
            other.joinpath("log").unlink()
            other.rmdir()
        with pytest.raises(FileNotFoundError), changes.of(str(other)):
            pass
        assert len(os.listdir("/proc/self/fd")) == descriptors

    asyncio.run(scenario())
