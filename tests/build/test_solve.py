"""Whole builds on the real store and runtime."""

from __future__ import annotations

import pytest

from wherry.build.failures import BuildFailed

from .conftest import Bench

pytestmark = pytest.mark.root


def test_a_run_step_becomes_a_layer_and_its_output_is_told(bench: Bench) -> None:
    outcome = bench.build("FROM base\nRUN echo hello; echo made > /made\nRUN cat /made\n")
    assert outcome.output == "hello\nmade\n"
    config = bench.config(outcome)
    assert len(config.rootfs.diff_ids) == 3
    assert [line.created_by for line in config.history or ()] == [
        "",
        "RUN /bin/sh -c echo hello; echo made > /made # buildkit",
        "RUN /bin/sh -c cat /made # buildkit",
    ]


def test_a_failing_step_names_its_code_in_both_wordings_and_leaves_nothing(bench: Bench) -> None:
    with pytest.raises(BuildFailed) as failure:
        bench.build("FROM base\nRUN exit 3\n")
    assert str(failure.value) == "The command '/bin/sh -c exit 3' returned a non-zero code: 3"
    assert failure.value.code == 3
    assert failure.value.detail == 'process "/bin/sh -c exit 3" did not complete successfully: exit code: 3'
    assert (
        failure.value.excerpt
        == "Dockerfile:2\n" + "-" * 20 + "\n   1 |     FROM base\n   2 | >>> RUN exit 3\n   3 |     \n" + "-" * 20 + "\n"
    )
    assert bench.left() == ([], [], [])


def test_the_same_input_gives_the_same_image_from_the_cache(bench: Bench) -> None:
    text = 'FROM base\nWORKDIR /app\nCOPY a.txt .\nRUN cat a.txt > b\nLABEL x=y\nCMD ["cat"]\n'
    first = bench.build(text, {"a.txt": "one"})
    again = bench.build(text, {"a.txt": "one"})
    assert again.result.image_id == first.result.image_id
    assert (again.result.steps, again.result.steps_cached) == (3, 3)
