"""Environments as bytes."""

from __future__ import annotations

from wherry.warm import environment


def test_what_has_no_name_or_comes_again_is_not_a_variable() -> None:
    block = b"A=1\0my.setting=a=b\0A=2\0=x\0nothing\0EMPTY=\0raw=\xff\n\0"
    assert environment.parse(block) == {b"A": b"1", b"my.setting": b"a=b", b"EMPTY": b"", b"raw": b"\xff\n"}


def test_settings_of_python_are_told_from_harmless_ones() -> None:
    assert environment.concerns_python([b"HOME", b"PYTHONPATH"])
    assert not environment.concerns_python([b"HOME", b"PYTHONUNBUFFERED", b"PYTHONDONTWRITEBYTECODE"])
