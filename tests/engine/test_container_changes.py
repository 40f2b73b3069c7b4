from __future__ import annotations

import io
import json

import pytest

from wherry.engine import container_changes
from wherry.store.snapshot import Change, ChangeKind


@pytest.mark.parametrize("count", [1, 2, 1000, 1001, 2500])
def test_changes_are_one_list_however_many_are_written_at_once(count: int) -> None:
    out = io.BytesIO()
    changes = (Change(path=f"/{number}", kind=ChangeKind.ADDED) for number in range(count))
    container_changes.write(changes, {"/0"} if count > 1 else (), out)
    expected = [{"Path": f"/{number}", "Kind": 1} for number in range(1 if count > 1 else 0, count)]
    assert json.loads(out.getvalue()) == expected


def test_no_change_is_null() -> None:
    out = io.BytesIO()
    container_changes.write([Change(path="/etc/hosts", kind=ChangeKind.CHANGED)], {"/etc/hosts"}, out)
    assert out.getvalue() == b"null\n"
