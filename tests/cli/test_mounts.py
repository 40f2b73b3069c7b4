"""Volumes and mounts on the command line."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.cli import mounts


def test_binds_and_anonymous_volumes_are_told_apart() -> None:
    assert mounts.volume("/a:/b:ro") == ("/a:/b:ro", "")
    assert mounts.volume("name:/b") == ("name:/b", "")
    assert mounts.volume("/b") == ("", "/b")
    assert mounts.volume("./x:/y") == (os.path.abspath("x") + ":/y", "")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("", "invalid empty volume spec"),
        ("a:b:c:d", "invalid spec: a:b:c:d: too many colons"),
        (":/b", "invalid spec: :/b: empty section between colons"),
    ],
)
def test_bad_volumes_are_told_in_dockers_words(word: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        mounts.volume(word)
    assert str(caught.value) == message


def test_a_mount_holds_the_options_of_its_type() -> None:
    assert mounts.mount("type=volume,src=v,dst=/c,ro,volume-nocopy,volume-opt=type=tmpfs,volume-label=a=b") == {
        "Type": "volume",
        "Source": "v",
        "Target": "/c",
        "ReadOnly": True,
        "VolumeOptions": {"NoCopy": True, "DriverConfig": {"Options": {"type": "tmpfs"}}, "Labels": {"a": "b"}},
    }
    assert mounts.mount("type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1770")["TmpfsOptions"] == {"SizeBytes": 1 << 20, "Mode": 0o1770}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("x", "invalid field 'x' must be a key=value pair"),
        ("type=bind,src=/a", "target is required"),
        ("type=bind,dst=/a,volume-nocopy", "cannot mix 'volume-*' options with mount type 'bind'"),
        ("type=bind,dst=/a,bogus=1", "unexpected key 'bogus' in 'bogus=1'"),
        ("type=tmpfs,dst=/a,tmpfs-size=x", "invalid value for tmpfs-size: x"),
        ("type=bind,dst=/a,ro=x", "invalid value for ro: x"),
    ],
)
def test_bad_mounts_are_told_in_dockers_words(word: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        mounts.mount(word)
    assert str(caught.value) == message


def test_quoted_fields_may_hold_commas_and_quotes() -> None:
    assert mounts.split_fields('a,"b,c","d""e",') == ["a", "b,c", 'd"e', ""]


@settings(max_examples=100)
@given(st.lists(st.text(), min_size=1, max_size=5))
def test_fields_written_with_quotes_are_read_back(fields: list[str]) -> None:
    line = ",".join('"' + field.replace('"', '""') + '"' for field in fields)
    assert mounts.split_fields(line) == fields


@settings(max_examples=100)
@given(st.text(max_size=30))
def test_any_text_is_a_mount_or_a_value_error(word: str) -> None:
    try:
        made = mounts.mount(word)
    except ValueError:
        return
    assert made["Target"]
