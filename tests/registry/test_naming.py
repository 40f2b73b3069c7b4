from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.registry.conftest import digest_of

from wherry.registry.naming import AnyDigest, is_name, is_tag


@pytest.mark.parametrize("name", ["a", "library/node", "a.b/c_d/e__f/g-h/i--j", "0/1", "a" * 255])
def test_a_name_of_the_grammar_is_one(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize(
    "name",
    ["", "A", "a/", "/a", "a//b", "a..b", "a___b", "-a", "a-", ".a", "a.", "a b", "a:b", "a\n", "a/../b", "á", "a" * 256, "a\0", "a@b"],
)
def test_another_name_is_none(name: str) -> None:
    assert not is_name(name)


def test_tags_have_letters_digits_and_some_marks() -> None:
    assert all(map(is_tag, ("1", "latest", "_x", "V1.0-rc_2", "a" * 128)))
    assert not any(map(is_tag, ("", ".", "..", ".a", "-a", "a/b", "a:b", "a\n", "a" * 129, "á")))


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_digest_is_known_by_its_parts(algorithm: str) -> None:
    text = digest_of(b"x", algorithm)
    digest = AnyDigest(text)
    assert (digest, digest.algorithm, digest.hex) == (text, algorithm, text[7:])
    assert AnyDigest.of_word(digest.word) == digest == AnyDigest.of(b"x", algorithm)


@given(st.one_of(st.text(max_size=140), st.from_regex(r"[a-z0-9]{2,8}[:-][0-9a-fA-F./]{0,140}", fullmatch=True)))
def test_whatever_passes_as_a_digest_leads_nowhere_else(text: str) -> None:
    try:
        word = AnyDigest(text).word
    except ValueError:
        return
    assert word.replace("-", "").isalnum()
    assert word.isascii()
