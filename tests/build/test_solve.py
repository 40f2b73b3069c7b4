"""Whole builds on the real store and runtime."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time

import msgspec
import pytest

from wherry.build import cache
from wherry.build.failures import BuildFailed, DockerfileError
from wherry.build.progress import ClassicRecords, Happening, Output, Warned
from wherry.build.services import BuildRequest
from wherry.build.solve import build
from wherry.errors import InvalidRequest, NotSupported

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
    assert bench.left() == ([], [])


def test_the_same_input_gives_the_same_image_from_the_cache(bench: Bench) -> None:
    text = 'FROM base\nWORKDIR /app\nCOPY a.txt .\nRUN cat a.txt > b\nLABEL x=y\nCMD ["cat"]\n'
    first = bench.build(text, {"a.txt": "one"})
    again = bench.build(text, {"a.txt": "one"})
    assert again.result.image_id == first.result.image_id
    assert (again.result.steps, again.result.steps_cached) == (3, 3)


def test_a_cached_layer_of_another_stack_is_not_taken(bench: Bench) -> None:
    text = "FROM base\nRUN cat /proc/sys/kernel/random/uuid > /made\nRUN echo more > /more\n"
    bench.build(text)
    ((key, _),) = [
        (key, entry)
        for key, body in bench.services.records.items(cache.KIND)
        if "uuid" in (entry := msgspec.json.decode(body, type=cache.Entry)).description
    ]
    with bench.services.records.transaction():
        bench.services.records.delete(cache.KIND, key)
    outcome = bench.build(text)
    assert outcome.result.steps_cached == 0
    assert len(bench.config(outcome).rootfs.diff_ids) == 3


def test_content_and_mode_decide_and_not_time(bench: Bench) -> None:
    context = bench.context("FROM base\nCOPY a.txt /a\nRUN cat /a\n", {"a.txt": "one"})
    first = bench.build_in(context)
    os.utime(context / "a.txt", (1, 1))
    assert bench.build_in(context).result.image_id == first.result.image_id
    os.chmod(context / "a.txt", 0o755)
    changed = bench.build_in(context)
    assert changed.result.steps_cached == 0
    assert changed.reasons == ["the content of a.txt changed", "the step before it changed"]


def test_a_changed_layer_invalidates_what_follows_and_nothing_before(bench: Bench) -> None:
    text = "FROM base\nRUN echo first-{0} > /a\nCOPY package.json /\nRUN echo install > /b\nCOPY . /app\nRUN echo last-{0} > /c\n"
    context = bench.context(text.format("x"), {"package.json": "{}", "src/m.js": "1"})
    bench.build_in(context)
    (context / "src/m.js").write_text("2")
    again = bench.build_in(context)
    assert again.result.steps_cached == 3
    assert again.reasons == ["the content of . changed", "the step before it changed"]


def test_settings_run_nothing_again(bench: Bench) -> None:
    text = "FROM base\nARG UNUSED=1\nLABEL v={0}\nEXPOSE {0}\nRUN echo settings > /s\n"
    first = bench.build(text.format(1))
    second = bench.build(text.format(2))
    assert second.result.image_id != first.result.image_id
    assert (second.result.steps, second.result.steps_cached) == (1, 1)


def test_a_used_argument_runs_its_steps_again_and_is_named(bench: Bench) -> None:
    text = "FROM base\nRUN echo before-arg > /b\nARG R\nRUN echo $R > /r\n"
    bench.build(text, build_args={"R": "1"}, tags=("arg",))
    again = bench.build(text, build_args={"R": "2"}, tags=("arg",))
    assert again.result.steps_cached == 1
    assert again.reasons == ["the variables changed: R"]


def test_arguments_before_the_first_stage_are_steps(bench: Bench) -> None:
    events = bench.build("ARG V=base\nARG W\nFROM $V\nENV A=b\n").events
    renderer = ClassicRecords()
    shown = "".join(record["stream"] for event in events for record in renderer.records(event) if "stream" in record)
    steps = [line for line in shown.splitlines() if line.startswith("Step")]
    assert steps == ["Step 1/4 : ARG V=base", "Step 2/4 : ARG W", "Step 3/4 : FROM $V", "Step 4/4 : ENV A=b"]


def test_empty_lines_of_an_instruction_are_told(bench: Bench) -> None:
    events = bench.build("FROM base\nRUN true \\\n\n  && true\nCMD x\n").events
    assert [event.line for event in events if isinstance(event, Warned)] == ["RUN true   && true", ""]


def test_a_remark_fails_the_build_where_the_dockerfile_says_so(bench: Bench) -> None:
    text = "FROM base as b\nRUN echo ran\nCMD x\nCMD y\n"
    rules = "FromAsCasing, JSONArgsRecommended, MultipleInstructionsDisallowed"
    with pytest.raises(DockerfileError, match=f"^lint violation found for rules: {rules}$"):
        bench.build("# check=error=true\n" + text)
    assert bench.build("# check=skip=all;error=true\n" + text).output == "ran\n"
    assert bench.build("# check=error=false\n" + text).result.warnings


def test_no_cache_runs_everything(bench: Bench) -> None:
    text = "FROM base\nRUN echo nocache > /n\n"
    bench.build(text)
    again = bench.build(text, no_cache=True)
    assert again.result.steps_cached == 0
    assert again.reasons == ["the cache was not to be used (--no-cache)"]


def test_a_rebuilt_stage_with_the_same_files_reuses_what_copies_them(bench: Bench) -> None:
    text = "FROM base AS a\nRUN echo same > /out; echo {0} > /other\nFROM base\nCOPY --from=a /out /out\nRUN cat /out\n"
    bench.build(text.format(1))
    again = bench.build(text.format(2))
    assert (again.result.steps, again.result.steps_cached) == (3, 2)


def test_independent_stages_run_at_the_same_time(bench: Bench) -> None:
    """Each waits for a file that the other makes in a shared cache mount: one after the other they would never end."""
    text = """FROM base AS {0}
RUN --mount=type=cache,target=/k,id=meet touch /k/{0}; i=0; while [ ! -e /k/{1} ]; do i=$((i+1)); [ $i -gt 200 ] && exit 1; sleep 0.05; done
"""
    end = "FROM scratch\nCOPY --from=left /etc/group /l\nCOPY --from=right /etc/group /r\n"
    bench.build(text.format("left", "right") + text.format("right", "left") + end)


def test_a_failing_stage_stops_the_others(bench: Bench) -> None:
    text = "FROM base AS slow\nRUN sleep 60\nFROM base AS bad\nRUN exit 4\nFROM scratch\nCOPY --from=slow / /\nCOPY --from=bad / /\n"
    started = time.monotonic()
    with pytest.raises(BuildFailed, match="code: 4"):
        bench.build(text)
    assert time.monotonic() - started < 30
    assert bench.left() == ([], [])


def test_cancelling_kills_the_step_and_leaves_nothing(bench: Bench) -> None:
    context = bench.context("FROM base\nRUN echo started; sleep 60\n")

    async def scenario() -> None:
        running = asyncio.Event()

        def tell(event: Happening) -> None:
            if isinstance(event, Output):
                running.set()

        with bench.packed(context) as packed:
            task = asyncio.ensure_future(build(BuildRequest(context=packed), bench.services, tell))
            await asyncio.wait_for(running.wait(), 20)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    started = time.monotonic()
    bench.run(scenario())
    assert time.monotonic() - started < 30
    assert bench.left() == ([], [])


def test_faults_are_found_before_anything_is_told(bench: Bench) -> None:
    events: list[Happening] = []
    for text, message in (
        ("FROM base\nBOGUS\n", "dockerfile parse error on line 2: unknown instruction: BOGUS"),
        ("RUN x\n", "no build stage in current context"),
        ("ARG A\n", "dockerfile contains no stages to build"),
        ("FROM a:b:c\n", 'failed to parse stage name "a:b:c": invalid reference format'),
        ("FROM $X\n", "base name ($X) should not be blank"),
        ("FROM base\nCOPY --from=5 a b\n", "invalid stage index 5"),
        ("FROM base\nCOPY --from=0 a b\n", "circular dependency detected on stage: stage-0"),
    ):
        context = bench.context(text)
        with bench.packed(context) as packed, pytest.raises(DockerfileError) as fault:
            bench.run(build(BuildRequest(context=packed), bench.services, events.append))
        assert str(fault.value) == message
    assert events == []


def test_bad_requests_are_refused(bench: Bench) -> None:
    with pytest.raises(InvalidRequest, match="Cannot locate specified Dockerfile: Nope"):
        bench.build("FROM base\n", dockerfile="Nope")
    with pytest.raises(InvalidRequest, match="invalid reference format"):
        bench.build("FROM base\n", tags=("UPPER:x",))
    with pytest.raises(NotSupported, match="squash"):
        bench.build("FROM base\n", squash=True)


def test_tags_move_to_the_new_image(bench: Bench) -> None:
    first = bench.build("FROM base\nLABEL n=1\n", tags=("moving:v1", "moving"))
    assert first.result.tags == ("moving:v1", "moving:latest")
    second = bench.build("FROM base\nLABEL n=2\n", tags=("moving",))
    assert bench.images.resolve("moving").id == second.result.image_id
    assert bench.images.resolve("moving:v1").id == first.result.image_id


def test_a_dockerfile_of_its_own_and_its_ignore_file(bench: Bench) -> None:
    files: dict[str, str | bytes] = {
        "x.Dockerfile": "FROM base\nCOPY . /c\nRUN ls /c\n",
        "x.Dockerfile.dockerignore": "Dockerfile\n*ignore\n",
        "f": "",
    }
    assert bench.build("not a Dockerfile", files, dockerfile="x.Dockerfile").output.split() == ["f", "x.Dockerfile"]
    assert bench.build("", dockerfile="given", dockerfile_bytes=b"FROM base\nRUN echo given\n").output == "given\n"
