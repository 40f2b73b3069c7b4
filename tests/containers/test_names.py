"""Generated names."""

from __future__ import annotations

from wherry.containers.create import checked_name
from wherry.containers.names import ADJECTIVES, WORDS, generate


def test_a_generated_name_is_valid_and_free() -> None:
    taken: set[str] = set()
    for _ in range(300):
        name = generate(lambda name: name not in taken)
        assert checked_name(name) == name
        assert name not in taken
        taken.add(name)


def test_when_every_pair_is_taken_digits_are_appended() -> None:
    pairs = {f"{adjective}_{word}" for adjective in ADJECTIVES for word in WORDS}
    assert generate(lambda name: name not in pairs)[-1].isdigit()
