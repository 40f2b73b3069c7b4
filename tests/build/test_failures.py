"""Excerpts and suggestions as BuildKit prints them."""

from __future__ import annotations

from wherry.build.failures import did_you_mean, excerpt


def test_excerpt_marks_the_lines_between_their_neighbours() -> None:
    source = "\n".join(f"line {number}" for number in range(1, 12))
    dashes = "-" * 20
    assert excerpt("Dockerfile", source, (6, 7)) == (
        f"Dockerfile:6\n{dashes}\n   4 |     line 4\n   5 |     line 5\n   6 | >>> line 6\n   7 | >>> line 7\n   8 |     line 8\n"
        f"   9 |     line 9\n{dashes}\n"
    )
    assert excerpt("D", "only\r\n", (1, 1)) == f"D:1\n{dashes}\n   1 | >>> only\n   2 |     \n{dashes}\n"


def test_suggestions_are_near_or_absent() -> None:
    assert did_you_mean("Rnu", ["env", "run"]) == " (did you mean run?)"
    assert did_you_mean("form", ["from", "chown"]) == " (did you mean from?)"
    assert did_you_mean("bogus", ["from", "run"]) == ""
