"""What the cache keeps, explains and gives back."""

from __future__ import annotations

import pytest

from wherry.build import cache

from .conftest import Bench

RUN = {"instruction": "RUN", "command": ["a"], "env": {"A": "1"}, "user": "", "cwd": "/", "mounts": [], "network": "default"}


@pytest.mark.parametrize(
    ("before", "same_parent", "reason"),
    [
        (None, True, "this step has not been built before"),
        (RUN, False, "the step before it changed"),
        (RUN, True, "its cached layer is gone"),
        ({**RUN, "command": ["b", "c"]}, True, "the command changed: b c -> a"),
        ({**RUN, "env": {"A": "2", "B": ""}}, True, "the variables changed: A, B"),
        ({**RUN, "cwd": "/x"}, True, "the working directory changed: /x -> /"),
        ({"instruction": "COPY"}, True, "the instruction changed: COPY -> RUN"),
    ],
)
def test_reasons(before: dict[str, object] | None, same_parent: bool, reason: str) -> None:
    assert cache.explain(before, RUN, same_parent=same_parent) == reason


@pytest.mark.root
def test_usage_and_prune_keep_what_images_use(bench: Bench) -> None:
    kept = bench.build("FROM base\nRUN echo kept-by-image > /prune\n", tags=("pruned",))
    gone = bench.build("FROM base\nRUN echo gone > /prune1\nRUN echo gone > /prune2\n")
    records, snapshotter = bench.services.records, bench.services.snapshotter
    kept_chain = bench.images.resolve("pruned").chain_ids
    gone_chain = bench.images.resolve(gone.result.image_id).chain_ids
    used = set(kept_chain)
    listed = {usage.description: usage for usage in cache.usage(records, used, {})}
    assert listed["RUN /bin/sh -c echo kept-by-image > /prune # buildkit"].shared
    assert listed["RUN /bin/sh -c echo gone > /prune2 # buildkit"].size_bytes == 5
    assert cache.bases(records, snapshotter.items(), used) == []
    assert cache.bases(records, snapshotter.items(), set()) == [kept_chain[0]]
    bench.images.remove(gone.result.image_id, in_use=lambda _: [])
    pruned = cache.prune(records, snapshotter, used, cache.Choice())
    assert pruned.size_bytes >= 10
    assert not any(snapshotter.exists(str(chain)) for chain in gone_chain[1:])
    assert all(snapshotter.exists(str(chain)) for chain in kept_chain)
    again = bench.build("FROM base\nRUN echo kept-by-image > /prune\n")
    assert again.result.image_id == kept.result.image_id
    assert bench.build("FROM base\nRUN echo gone > /prune1\n").reasons == ["its cached layer is gone"]


@pytest.mark.root
def test_a_prune_beside_a_build_leaves_the_layers_to_later(bench: Bench) -> None:
    chain = bench.images.resolve(bench.build("FROM base\nRUN echo beside > /b\n").result.image_id).chain_ids[-1]
    records, snapshotter = bench.services.records, bench.services.snapshotter
    pruned = cache.prune(records, snapshotter, set(), cache.Choice(building=lambda: True))
    assert pruned.ids
    assert pruned.size_bytes == 0
    assert snapshotter.exists(str(chain))


@pytest.mark.root
def test_a_record_whose_layer_is_gone_counts_as_absent(bench: Bench) -> None:
    text = "FROM base\nRUN echo vanishing > /v\n"
    chain = bench.images.resolve(bench.build(text).result.image_id).chain_ids[-1]
    bench.services.snapshotter.remove(str(chain))
    again = bench.build(text)
    assert again.reasons == ["its cached layer is gone"]
