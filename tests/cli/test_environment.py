"""Variables and labels."""

from __future__ import annotations

from pathlib import Path

import pytest

from wherry.cli import environment
from wherry.cli.flags import Failure


def test_a_bare_name_takes_the_value_it_has_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "x=y")
    monkeypatch.delenv("NOT_HERE", raising=False)
    assert environment.variable("HERE") == "HERE=x=y"
    assert environment.variable("NOT_HERE") == "NOT_HERE"
    with pytest.raises(ValueError, match="invalid environment variable: =x"):
        environment.variable("=x")


def test_an_env_file_is_taken_literally(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "h")
    monkeypatch.delenv("NOT_HERE", raising=False)
    path = tmp_path / "env"
    path.write_text('# c\n\nA=1 # kept\n B="q"\nHERE\nNOT_HERE\n')
    assert environment.read_pairs(str(path), inherit=True) == ["A=1 # kept", 'B="q"', "HERE=h"]


@pytest.mark.parametrize(
    ("line", "reason"), [("export D=1", "variable 'export D' contains whitespaces"), ("=x", "no variable name on line '=x'")]
)
def test_a_bad_line_of_an_env_file_is_told(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "env"
    path.write_text(line)
    with pytest.raises(Failure) as caught:
        environment.read_pairs(str(path), inherit=True)
    assert str(caught.value) == f"invalid env file ({path}): {reason}"
    assert caught.value.status == 125


def test_bytes_that_are_no_text_are_told(tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_bytes(b"A=1\n\xff=x\n")
    with pytest.raises(Failure, match=r"invalid env file \(.*env\): invalid utf8 bytes at line 2: \[255 61 120\]"):
        environment.read_pairs(str(path), inherit=True)


def test_of_a_variable_given_twice_the_last_value_counts() -> None:
    assert environment.variables([], ["D=2", "C=3", "D=4"]) == ["D=4", "C=3"]
