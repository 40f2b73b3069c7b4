"""user[:group] by hostile account files."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.runtime import users
from wherry.runtime.failure import StartFailure

PASSWD = b"root:x:0:0:root:/root:/bin/sh\nal:x:1000:1001::/home/al:/bin/sh\n4294967296:x:0:0::/evil:\nbad:x:y:z::/:\n# x:x:1:1::/:\n"
GROUP = b"root:x:0:\nal:x:1001:\nextra:x:2000:al,bo\n"


@pytest.mark.parametrize(
    ("user", "uid", "gid", "groups", "home"),
    [
        ("", 0, 0, (0,), "/root"),
        ("root", 0, 0, (0,), "/root"),
        ("al", 1000, 1001, (1001, 2000), "/home/al"),
        ("1000", 1000, 1001, (1001, 2000), "/home/al"),
        ("al:extra", 1000, 2000, (2000,), "/home/al"),
        ("al:55", 1000, 55, (55,), "/home/al"),
        ("77", 77, 0, (0,), "/"),
        ("77:al", 77, 1001, (1001,), "/"),
        (":", 0, 0, (0,), "/root"),
        ("0:", 0, 0, (0,), "/root"),
        ("01000", 1000, 1001, (1001, 2000), "/home/al"),
        ("2147483647", 2147483647, 0, (0,), "/"),
    ],
)
def test_who_it_is(user, uid, gid, groups, home):
    found = users.resolve(PASSWD, GROUP, user)
    assert (found.uid, found.gid, found.groups, found.home) == (uid, gid, groups, home)


@pytest.mark.parametrize("user", ["nosuch", "bad", "1e3", "x y", "0:nosuch", "4294967296", "2147483648", "-1", "+1", "0:-1"])
def test_who_nobody_is(user):
    with pytest.raises(StartFailure, match=r"unable to find|must be in range 0-2147483647"):
        users.resolve(PASSWD, GROUP, user)


def test_additional_groups_are_names_or_numbers():
    assert users.resolve(PASSWD, GROUP, "al", ["extra", "3000"]).groups == (1001, 2000, 3000)
    with pytest.raises(StartFailure, match="unable to find group no: no matching entries in group file"):
        users.resolve(PASSWD, GROUP, "al", ["no"])


@settings(max_examples=100)
@given(st.binary(max_size=300), st.binary(max_size=300), st.text(max_size=20))
def test_no_file_makes_more_of_a_user_than_an_id_in_range(passwd, group, user):
    try:
        found = users.resolve(passwd, group, user)
    except StartFailure:
        return
    assert all(0 <= number < 2**31 for number in (found.uid, found.gid, *found.groups))
