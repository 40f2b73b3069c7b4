"""The classic text and BuildKit's plain one."""

from __future__ import annotations

import itertools

from wherry.build.failures import BuildFailed, DockerfileError
from wherry.build.progress import (
    Built,
    Cached,
    ClassicRecords,
    Declared,
    Failed,
    Finished,
    Happening,
    Output,
    PlainRecords,
    PlainText,
    Ran,
    Started,
    Step,
    Warned,
    Why,
    error_record,
    failure_text,
)

IMAGE = "sha256:" + "ab" * 32


def step(number: int, text: str, place: int, *, stage: str = "") -> Step:
    return Step(number=number, total=3, stage=stage, place=place, places=2, text=text)


FROM, RUN, CMD = step(1, "FROM b2", 1), step(2, "RUN echo hi", 2), step(3, 'CMD ["x"]', 0)
EVENTS: list[Happening] = [
    Started(step=FROM),
    Finished(step=FROM, image_id=IMAGE, seconds=0),
    Started(step=RUN),
    Why(step=RUN, reason="this step has not been built before"),
    Ran(step=RUN, container_id="cd" * 32),
    Output(step=RUN, data=b"h"),
    Output(step=RUN, data=b"i\n"),
    Ran(step=RUN, container_id="cd" * 32, ended=True),
    Finished(step=RUN, image_id=IMAGE, seconds=0.26),
    Started(step=CMD),
    Cached(step=CMD),
    Finished(step=CMD, image_id=IMAGE, seconds=0, cached=True, last=True),
    Built(image_id=IMAGE, tags=("leg:latest",)),
]


def classic(events: list[Happening], *, quiet: bool = False) -> list[dict[str, object]]:
    renderer = ClassicRecords(quiet=quiet)
    return [record for event in events for record in renderer.records(event)]


def text(records: list[dict[str, object]]) -> str:
    return "".join(str(record["stream"]) for record in records if "stream" in record)


def test_classic_text() -> None:
    records = classic(EVENTS)
    assert text(records) == (
        "Step 1/3 : FROM b2\n ---> abababababab\nStep 2/3 : RUN echo hi\n ---> Running in cdcdcdcdcdcd\nhi\n"
        " ---> Removed intermediate container cdcdcdcdcdcd\n ---> abababababab\n"
        'Step 3/3 : CMD ["x"]\n ---> Using cache\n ---> abababababab\n'
        "Successfully built abababababab\nSuccessfully tagged leg:latest\n"
    )
    assert {"aux": {"ID": IMAGE}} in records


def test_what_is_before_the_stages_and_what_is_no_image_yet_is_told_as_by_the_classic_builder() -> None:
    argument = Step(number=1, total=3, stage="", place=0, places=0, text="ARG V=1")
    scratch = Step(number=2, total=3, stage="", place=0, places=1, text="FROM scratch")
    events: list[Happening] = [
        Warned(message="NoEmptyContinuation: Empty continuation line (line 3)", line="RUN a   && b"),
        Warned(message="JSONArgsRecommended: ..."),
        Started(step=scratch),
        Declared(step=argument),
        Finished(step=scratch, image_id=IMAGE, seconds=0, empty=True),
    ]
    assert text(classic(events)) == (
        "[WARNING]: Empty continuation line found in: RUN a   && b\n"
        "[WARNING]: Empty continuation lines will become errors in a future release.\n"
        "Step 1/3 : ARG V=1\nStep 2/3 : FROM scratch\n ---> \n"
    )


def test_quiet_prints_the_id_alone() -> None:
    assert classic(EVENTS, quiet=True) == [{"stream": f"{IMAGE}\n"}]


def test_stages_that_run_together_are_told_in_order() -> None:
    mixed = [EVENTS[2], EVENTS[0], EVENTS[5], EVENTS[1], EVENTS[6], EVENTS[8], *EVENTS[9:]]
    assert text(classic(mixed)).startswith("Step 1/3 : FROM b2\n ---> abababababab\nStep 2/3 : RUN echo hi\nhi\n ---> ")


def test_plain_text() -> None:
    clock = itertools.count()
    plain = PlainText(lambda: next(clock) / 8)
    assert "".join(plain.text(event) for event in EVENTS) == (
        "#1 [1/2] FROM b2\n#1 DONE 0.0s\n\n#2 [2/2] RUN echo hi\n#2 why: this step has not been built before\n#2 0.250 hi\n#2 DONE 0.3s\n"
        f"\n#3 exporting to image\n#3 writing image {IMAGE} done\n#3 naming to leg:latest done\n#3 DONE 0.0s\n"
    )


def test_plain_records_end_with_remarks_and_the_id() -> None:
    renderer = PlainRecords()
    events = [Warned(message="JSONArgsRecommended: use it (line 3)"), *EVENTS]
    records = [record for event in events for record in renderer.records(event)]
    remarks = "\n 1 warning found:\n - JSONArgsRecommended: use it (line 3)\n"
    assert text(records).endswith(f"#3 DONE 0.0s\n{remarks}")
    assert records[-1] == {"aux": {"ID": IMAGE}}
    error = BuildFailed("in the classic words", detail="in BuildKit's", code=3)
    message = "ERROR: failed to build: failed to solve: in BuildKit's"
    assert list(renderer.failure(error)) == [{"stream": remarks}, {"errorDetail": {"code": 3, "message": message}, "error": message}]


def test_a_quiet_build_that_fails_tells_all_then_up_to_a_limit() -> None:
    renderer = ClassicRecords(quiet=True)
    assert [record for event in EVENTS[:7] for record in renderer.records(event)] == []
    error = BuildFailed("it ended", code=3)
    told = list(renderer.failure(error))
    assert text(told) == "Step 1/3 : FROM b2\n ---> abababababab\nStep 2/3 : RUN echo hi\n ---> Running in cdcdcdcdcdcd\nhi\n"
    assert told[-1] == error_record(error)
    for _ in range(40):
        list(renderer.records(Output(step=RUN, data=b"x" * 65536)))
    assert 900_000 < len(text(list(renderer.failure(error)))) < 1 << 20


def test_failures_in_both_texts() -> None:
    error = BuildFailed("The command 'x' returned a non-zero code: 3", detail='process "x" did not ...', code=3, excerpt="Dockerfile:2\n")
    assert error_record(error) == {"errorDetail": {"code": 3, "message": str(error)}, "error": str(error)}
    assert failure_text(error) == 'Dockerfile:2\nERROR: failed to build: failed to solve: process "x" did not ...'
    plain = PlainText()
    assert plain.text(Failed(step=RUN, error=error)).endswith('#1 ERROR: process "x" did not ...\n')
    assert failure_text(DockerfileError("bad")) == "ERROR: failed to build: failed to solve: bad"
