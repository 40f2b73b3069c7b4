"""Platform names and which image of an index is taken."""

from __future__ import annotations

import pytest

from wherry.errors import InvalidRequest, NotFound
from wherry.images.platforms import host_level, matches, parse, select, show
from wherry.spec.digest import sha256
from wherry.spec.image import OCI_MANIFEST, Descriptor, Platform


@pytest.mark.parametrize(
    ("text", "shown"),
    [("linux/amd64", "linux/amd64"), ("arm64", "linux/arm64"), ("linux/x86_64", "linux/amd64"), ("linux/arm/v6", "linux/arm/v6")],
)
def test_a_platform_is_read_in_any_spelling(text: str, shown: str) -> None:
    assert show(parse(text)).startswith(shown)


def test_an_unknown_platform_is_refused_in_the_words_of_docker() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse("bogus")
    assert str(caught.value) == '"bogus": unknown operating system or architecture: invalid argument'


def test_an_older_arm_will_do_and_a_newer_will_not() -> None:
    def arm(variant: str) -> Platform:
        return Platform(os="linux", architecture="arm", variant=variant)

    assert matches(arm("v7"), arm("v6"))
    assert not matches(arm("v6"), arm("v7"))
    entries = [Descriptor(media_type=OCI_MANIFEST, digest=sha256(v.encode()), size=1, platform=arm(v)) for v in ("v5", "v7", "v6")]
    assert select(entries, arm("v7")).digest == sha256(b"v7")
    with pytest.raises(NotFound, match="no matching manifest for linux/amd64 in the manifest list entries"):
        select(entries, parse("linux/amd64"))


def test_the_best_level_of_x86_64_that_the_processor_has_is_chosen() -> None:
    def amd64(variant: str) -> Platform:
        return Platform(os="linux", architecture="amd64", variant=variant)

    assert 1 <= host_level() <= 4
    for level in range(1, 6):
        assert matches(amd64(""), amd64(f"v{level}")) is (level <= host_level())
    assert matches(amd64("v3"), amd64("v2"))
    assert not matches(amd64("v2"), amd64("v3"))
    entries = [Descriptor(media_type=OCI_MANIFEST, digest=sha256(v.encode()), size=1, platform=amd64(v)) for v in ("v2", "v1", "v9")]
    assert select(entries, amd64("v2")).digest == sha256(b"v2")
    assert select(entries[1:], amd64("v3")).digest == sha256(b"v1")
