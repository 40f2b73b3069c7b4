"""Steps on active snapshots, and where COPY's destination is."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest
from tests.system.waiting import until

from wherry.build.failures import BuildFailed
from wherry.build.steps import joined, staging_file

from .conftest import Bench


@pytest.mark.parametrize(
    ("workdir", "path", "result"),
    [
        ("/", "a", ("/a", False)),
        ("/w", "a/", ("/w/a", True)),
        ("/w", ".", ("/w", True)),
        ("/w", "./", ("/w", True)),
        ("/w", "..", ("/", True)),
        ("/w", "/x/../y", ("/y", False)),
        ("/", "//x", ("/x", False)),
        ("/", "/", ("/", True)),
    ],
)
def test_destinations(workdir: str, path: str, result: tuple[str, bool]) -> None:
    assert joined(workdir, path) == result


def test_files_of_the_build_get_exactly_their_mode(tmp_path: Path) -> None:
    path = staging_file(str(tmp_path), "x", b"y", 0o777)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o777


@pytest.mark.root
def test_output_of_both_streams_is_whole_however_much_it_is(bench: Bench) -> None:
    outcome = bench.build("FROM base\nRUN seq 200000; seq 3 >&2\n")
    assert len(outcome.output) == sum(len(f"{number}\n") for number in range(1, 200001)) + 6


@pytest.mark.root
def test_many_steps_leave_no_descriptor_and_no_process(bench: Bench) -> None:
    bench.build("FROM base\nRUN echo warm-up\n")
    before = len(os.listdir("/proc/self/fd"))
    for number in range(5):
        bench.build(f"FROM base\nRUN echo {number} > /leak\nCOPY Dockerfile /d\n")
        with pytest.raises(BuildFailed):
            bench.build(f"FROM base\nRUN echo {number}; exit 1\n")
    # what is told by a monitor's end is closed when that comes, which may be after the build's
    until(lambda: bench.run(asyncio.sleep(0)) or len(os.listdir("/proc/self/fd")) <= before)
    assert bench.left() == ([], [])
