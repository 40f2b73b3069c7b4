"""Image names against Docker's answers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.spec.reference import InvalidReference, parse, parse_tag

HEX = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize(
    ("text", "stored", "familiar"),
    [
        ("node", "docker.io/library/node", "node"),
        ("node:20", "docker.io/library/node:20", "node:20"),
        ("a/b", "docker.io/a/b", "a/b"),
        ("docker.io/x", "docker.io/library/x", "x"),
        ("docker.io/library/x:1", "docker.io/library/x:1", "x:1"),
        ("index.docker.io/foo", "docker.io/library/foo", "foo"),
        ("index.docker.io/a/foo", "docker.io/a/foo", "a/foo"),
        ("docker.io/library/a/b", "docker.io/library/a/b", "library/a/b"),
        ("localhost/x", "localhost/x", "localhost/x"),
        ("localhost:5000/x/b2:1", "localhost:5000/x/b2:1", "localhost:5000/x/b2:1"),
        ("x:5000", "docker.io/library/x:5000", "x:5000"),
        ("UP.com/x", "UP.com/x", "UP.com/x"),
        ("UP/x", "UP/x", "UP/x"),
        ("[::1]:5000/x", "[::1]:5000/x", "[::1]:5000/x"),
        ("a__b/c-d.e---f", "docker.io/a__b/c-d.e---f", "a__b/c-d.e---f"),
        (f"a:b@sha256:{HEX}", f"docker.io/library/a:b@sha256:{HEX}", f"a:b@sha256:{HEX}"),
        (f"sha256:{HEX}", f"docker.io/library/sha256:{HEX}", f"sha256:{HEX}"),
    ],
)
def test_a_name_is_stored_whole_and_shown_short(text: str, stored: str, familiar: str) -> None:
    reference = parse(text)
    assert str(reference) == stored
    assert reference.familiar == familiar


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("UPPER", "invalid reference format: repository name (library/UPPER) must be lowercase"),
        ("X:tag", "invalid reference format: repository name (library/X) must be lowercase"),
        ("localhost/UP", "invalid reference format: repository name (UP) must be lowercase"),
        ("x:y:z", "invalid reference format"),
        ("a b", "invalid reference format"),
        ("", "invalid reference format"),
        (":", "invalid reference format"),
        ("a:", "invalid reference format"),
        ("a/b/", "invalid reference format"),
        ("a\n", "invalid reference format"),
        ("a@sha256:12", "invalid reference format"),
        ("http://foo", "invalid reference format"),
        ("../../etc/passwd", "invalid reference format"),
        ("foo@sha512:abc", "invalid reference format"),
        ("a" * 260, "repository name must not be more than 255 characters"),
        (HEX, f"invalid repository name ({HEX}), cannot specify 64-byte hexadecimal strings"),
        (f"x@sha256:{HEX[:-1]}", "invalid checksum digest length"),
        (f"x@md5:{HEX}", "unsupported digest algorithm"),
        (f"x@sha256:{HEX.upper()}", "invalid checksum digest format"),
    ],
)
def test_a_bad_name_is_refused_in_the_words_of_docker(text: str, message: str) -> None:
    with pytest.raises(InvalidReference) as caught:
        parse(text)
    assert str(caught.value) == message


def test_a_tag_to_give_is_completed_and_a_digest_refused() -> None:
    assert str(parse_tag("x")) == "docker.io/library/x:latest"
    with pytest.raises(InvalidReference, match="refusing to create a tag with a digest reference"):
        parse_tag(f"a:b@sha256:{HEX}")
    with pytest.raises(InvalidReference, match="refusing to create an ambiguous tag using digest algorithm as name"):
        parse_tag(f"sha256:{HEX}")


def test_a_tag_and_a_digest_replace_each_other() -> None:
    reference = parse("a:b")
    assert reference.with_digest(f"sha256:{HEX}").familiar == f"a@sha256:{HEX}"
    assert reference.with_digest(f"sha256:{HEX}").with_tag("c").familiar == "a:c"
    with pytest.raises(InvalidReference, match="invalid tag format"):
        reference.with_tag("-x")


component = st.from_regex(r"[a-z0-9]+([._-][a-z0-9]+)?", fullmatch=True).filter(lambda text: len(text) < 60)


@settings(max_examples=100, deadline=None)
@given(st.lists(component, min_size=1, max_size=3), st.none() | st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True))
def test_both_spellings_read_back_as_the_same_value(path: list[str], tag: str | None) -> None:
    text = "/".join(path) + (f":{tag}" if tag else "")
    try:
        reference = parse(text)
    except InvalidReference:
        return
    assert parse(str(reference)) == reference
    assert parse(reference.familiar) == reference


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="aA0.:/@-_[]sh256\x00 \n", max_size=40))
def test_any_text_is_a_reference_or_an_invalid_reference(text: str) -> None:
    try:
        reference = parse(text)
    except InvalidReference:
        return
    assert ".." not in str(reference)
    assert parse(str(reference)) == reference
