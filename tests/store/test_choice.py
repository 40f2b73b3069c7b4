from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from wherry.spec.settings import Settings
from wherry.store.choice import choose, overlay_works
from wherry.store.erofs import erofs_works
from wherry.store.records import Records

sys.path.insert(0, str(Path(__file__).parent))

from snapshotter_suite import BASE

pytestmark = pytest.mark.root


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    records = Records(str(tmp_path / "state.db"))
    yield records
    records.close()


def test_the_first_that_can_be_mounted_is_chosen_and_the_probes_leave_nothing(records: Records, tmp_path: Path) -> None:
    root = str(tmp_path / "root")
    chosen = choose(Settings(data_root=root), records)
    best = "erofs" if erofs_works(root) else "overlay"
    assert chosen.name == (best if overlay_works(root) else "vfs")
    assert os.listdir(root) == ["snapshots"]


def test_the_settings_decide_until_there_are_snapshots(records: Records, tmp_path: Path) -> None:
    root = str(tmp_path)
    assert choose(Settings(data_root=root, snapshotter="overlay"), records).name == "overlay"
    vfs = choose(Settings(data_root=root, snapshotter="vfs"), records)
    vfs.apply(None, None, io.BytesIO(BASE))
    assert choose(Settings(data_root=root), records).name == "vfs"
    with pytest.raises(ValueError, match="begun with the snapshotter 'vfs', not 'overlay'"):
        choose(Settings(data_root=root, snapshotter="overlay"), records)
    with pytest.raises(ValueError, match="unknown snapshotter 'zfs'"):
        choose(Settings(data_root=root, snapshotter="zfs"), records)


def test_a_choice_that_cannot_be_read_is_made_again(records: Records, tmp_path: Path) -> None:
    first = choose(Settings(data_root=str(tmp_path)), records)
    first.apply(None, None, io.BytesIO(BASE))
    records.name("setting", "snapshotter", "\x7f")
    assert choose(Settings(data_root=str(tmp_path)), records).name == first.name
