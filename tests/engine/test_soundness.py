from __future__ import annotations

from collections.abc import Iterator

from wherry.engine.soundness import lasting
from wherry.store.soundness import Finding


def finding(subject: str, fact: str = "is wrong") -> Finding:
    return Finding(subject=subject, fact=fact, remedy="mend it")


def test_what_is_wrong_for_a_moment_only_is_not_told() -> None:
    looks = iter([["removed now", "damaged"], ["damaged", "made now"]])

    def check() -> Iterator[Finding]:
        yield from map(finding, next(looks))

    assert [found.subject for found in lasting(check, moment_s=0)] == ["damaged"]


def test_a_look_that_finds_nothing_is_the_only_one() -> None:
    looks = iter([()])
    assert list(lasting(lambda: next(looks), moment_s=10)) == []
