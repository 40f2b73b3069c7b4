from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from wherry.spec.digest import Digest, chain_id
from wherry.store.content import Content
from wherry.store.garbage import UNNAMED, Garbage, Roots
from wherry.store.records import Records
from wherry.store.vfs import Vfs

sys.path.insert(0, str(Path(__file__).parent))

from snapshotter_suite import file, layer


class World:
    def __init__(self, root: str) -> None:
        self.records = Records(f"{root}/state.db")
        self.content = Content(root)
        self.snapshots = Vfs(root, self.records)
        self.roots = Roots()
        self.garbage = Garbage(self.content, self.snapshots, lambda: self.roots)

    def layers(self) -> tuple[Digest, Digest]:
        base = self.snapshots.apply(None, None, io.BytesIO(layer(file("a", b"aaa")))).diff_id
        top = self.snapshots.apply(None, base, io.BytesIO(layer(file("b", b"bb"))))
        return base, chain_id([base, top.diff_id])


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(str(tmp_path))
    yield world
    world.records.close()


def test_what_no_record_leads_to_is_swept_children_first(world: World) -> None:
    base, top = world.layers()
    blob = world.content.put(b"blob")
    swept = world.garbage.sweep()
    assert swept.content == [blob]
    assert swept.snapshots == [top, base]
    assert swept.reclaimed_bytes == 4 + 2 + 3
    assert world.snapshots.items() == []


def test_a_snapshot_that_another_removes_during_a_sweep_is_gone_like_any(world: World) -> None:
    base, top = world.layers()

    def roots() -> Roots:
        world.snapshots.remove(top)
        return Roots()

    swept = Garbage(world.content, world.snapshots, roots).sweep()
    assert swept.snapshots == [base]
    assert world.snapshots.items() == []


def test_a_referenced_snapshot_keeps_its_parents_and_a_referenced_blob_stays(world: World) -> None:
    base, top = world.layers()
    blob = world.content.put(b"blob")
    world.roots = Roots(content=frozenset({blob}), snapshots=frozenset({top}))
    assert world.garbage.sweep().snapshots == []
    assert world.snapshots.exists(base)
    assert world.content.has(blob)


def test_what_is_held_is_safe_until_the_hold_ends(world: World) -> None:
    base, top = world.layers()
    with world.garbage.hold() as hold:
        blob = world.content.put(b"blob")
        hold(blob)
        hold(top)
        assert world.garbage.sweep().content == []
        assert world.snapshots.exists(base)
    assert world.garbage.sweep().content == [blob]
    assert not world.snapshots.exists(base)


def test_what_was_held_and_recorded_while_a_sweep_ran_is_kept(world: World) -> None:
    blob = world.content.put(b"blob")

    def roots() -> Roots:
        with world.garbage.hold() as hold:
            hold(blob)
        return Roots()  # read before the record that the holder has just written

    garbage = world.garbage
    garbage._roots = roots
    assert garbage.sweep().content == []
    assert world.content.has(blob)


def test_a_start_empties_staging(world: World, tmp_path: Path) -> None:
    writer = world.content.ingest()
    writer.write(b"half")
    (tmp_path / "staging/build/deep").mkdir(parents=True)
    world.garbage.start()
    assert os.listdir(tmp_path / "staging") == []


def test_a_blob_kept_for_a_snapshot_goes_with_it(world: World) -> None:
    base, _ = world.layers()
    blob = world.content.put(b"blob")
    world.garbage._roots = lambda: Roots(content=frozenset({blob} if world.snapshots.exists(base) else ()))
    assert world.garbage.sweep().content == [blob]


def test_nothing_goes_while_something_without_a_name_yet_is_made(world: World) -> None:
    base, top = world.layers()
    blob = world.content.put(b"blob")
    with world.garbage.hold() as hold:
        hold(UNNAMED)
        swept = world.garbage.sweep()
    assert (swept.snapshots, swept.content) == ([], [])
    swept = world.garbage.sweep()
    assert (swept.snapshots, swept.content) == ([top, base], [blob])


def test_what_is_put_off_can_be_collected_when_the_last_hold_ends(world: World) -> None:
    told: list[str] = []
    garbage = Garbage(world.content, world.snapshots, lambda: world.roots, idle=lambda: told.append("idle"))
    blob = world.content.put(b"blob")
    with garbage.hold():
        with garbage.hold():
            assert garbage.collect().content == []
        assert told == []
    assert told == ["idle"]
    assert garbage.collect().content == [blob]
    with garbage.hold():
        garbage.put_off()
    with garbage.hold():
        pass
    assert told == ["idle", "idle"]
    garbage.put_off()
    assert told == ["idle"] * 3
