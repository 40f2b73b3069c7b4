"""Sources of one build: opened once, and remembered between builds by their layers' name."""

from __future__ import annotations

import pytest

from wherry.build.cache import Cache
from wherry.build.context import NothingThere, Source
from wherry.build.inputs import CONTEXT, Inputs, Origin

from .conftest import Bench

pytestmark = pytest.mark.root


def inputs(bench: Bench, context: Source) -> Inputs:
    return Inputs(bench.services, Cache(bench.services.records, bench.services.snapshotter), context, str(bench.root))


def test_a_stack_of_layers_is_read_as_one_tree_and_nothing_is_mounted(bench: Bench) -> None:
    built = bench.build("FROM base\nRUN echo one > /one; echo x > /gone\nRUN rm /gone; echo two > /two\n")
    chain = str(bench.images.resolve(built.result.image_id).chain_ids[-1])
    origin = Origin(is_context=False, chain=chain)
    context = Source.open(str(bench.root))
    found = inputs(bench, context)
    with open("/proc/self/mounts") as mounts:
        before = mounts.read()
    try:
        assert [one.name for one in bench.run(found.choose(origin, "/[ot]*", ()))] == ["one", "tmp", "two"]
        assert [one.path for one in bench.run(found.choose(origin, "one", ()))] == ["one"]
        with pytest.raises(NothingThere):
            bench.run(found.choose(origin, "gone", ()))
        with open("/proc/self/mounts") as mounts:
            assert mounts.read() == before
    finally:
        found.close()
        context.close()


def test_digests_of_layers_are_kept_and_those_of_the_context_are_not(bench: Bench) -> None:
    built = bench.build("FROM base\nRUN echo kept > /kept\n")
    origin = Origin(is_context=False, chain=str(bench.images.resolve(built.result.image_id).chain_ids[-1]))
    folder = bench.context("FROM base\n", {"f": "1"})
    digests = []
    for content in ("1", "2"):
        (folder / "f").write_text(content)
        context = Source.open(str(folder))
        found = inputs(bench, context)
        digests.append((bench.run(found.digest(origin, "kept", ())), bench.run(found.digest(CONTEXT, "f", ()))))
        found.cache.flush()
        found.close()
        context.close()
    assert digests[0][0] == digests[1][0]
    assert digests[0][1] != digests[1][1]
