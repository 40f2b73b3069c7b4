"""Stages and what they need."""

from __future__ import annotations

import pytest

from wherry.build.failures import DockerfileError
from wherry.build.graph import Graph, find_stage, make_graph
from wherry.build.parse import parse


def graph(text: str, target: str = "", **args: str) -> Graph:
    return make_graph(parse(text.encode()), target=target, build_args=args, platform_args={"TARGETPLATFORM": "linux/amd64"})


TEXT = """ARG V=1
FROM img:$V AS a
RUN x
FROM a AS B
FROM scratch AS c
COPY --from=a / /
RUN --mount=type=bind,from=1,target=/x y
FROM other
"""


def test_only_what_the_target_needs_is_built() -> None:
    assert graph(TEXT, "c").needed == (0, 1, 2)
    assert graph(TEXT, "b").needed == (0, 1)
    assert graph(TEXT, "0").needed == (0,)
    assert graph(TEXT).needed == (3,)
    assert graph(TEXT, "c").steps == 7  # the ARG before the first stage counts


def test_global_arguments_name_images() -> None:
    made = graph("ARG V=1\nARG N=img${V}\nFROM --platform=$TARGETPLATFORM $N:$V AS a\n", V="2")
    assert (made.stages[0].base_image, made.stages[0].platform) == ("img2:2", "linux/amd64")


def test_a_stage_is_found_by_its_last_name_or_number() -> None:
    stages = graph("FROM a AS x\nFROM b AS x\nFROM x\n").stages
    assert stages[2].base_stage == 1
    assert find_stage("X", stages, 2) == 1
    assert find_stage("0", stages, 2) == 0
    assert find_stage("2", stages, 2) is None
    assert find_stage("alpine", stages, 2) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FROM UPPER\n", "invalid reference format: repository name (library/UPPER) must be lowercase"),
        ("FROM x\nCOPY --from=1 a b\n", "invalid stage index 1"),
        ("FROM x AS s\nCOPY --from=s a b\n", "circular dependency detected on stage: s"),
    ],
)
def test_faults(text: str, message: str) -> None:
    with pytest.raises(DockerfileError) as fault:
        graph(text)
    assert str(fault.value).endswith(message)
