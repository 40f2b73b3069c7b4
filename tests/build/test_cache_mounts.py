"""Cache mounts: measured, and removed by a prune."""

from __future__ import annotations

import pytest

from wherry.build import cache, cache_mounts

from .conftest import Bench

RUN = "FROM base\nRUN --mount=type=cache,target=/k,id=measured mkdir -p /k/d; echo {} >> /k/d/log; cat /k/d/log\n"


@pytest.mark.root
def test_a_cache_mount_has_its_size_and_goes_when_it_is_pruned(bench: Bench) -> None:
    bench.build(RUN.format("first"))
    records, snapshotter, root = bench.services.records, bench.services.snapshotter, bench.services.settings.data_root
    (key,) = [key for key, size in cache_mounts.sizes(root).items() if size == len("first\n")]
    assert {usage.id: usage.size_bytes for usage in cache.usage(records, set(), cache_mounts.sizes(root))}[key] == len("first\n")
    assert cache.prune(records, snapshotter, set(), cache.Choice(fits=lambda ident, _: ident == key)).ids == []  # a build may use it
    pruned = cache.prune(records, snapshotter, set(), cache.Choice(fits=lambda ident, _: ident == key, mounts=cache_mounts.sizes(root)))
    assert (pruned.ids, pruned.mounts, pruned.size_bytes) == ([key], [key], len("first\n"))
    cache_mounts.discard(root, [key, "mount:nosuch"])
    assert key not in cache_mounts.sizes(root)
    assert bench.build(RUN.format("second")).output == "second\n"
