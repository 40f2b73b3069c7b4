"""Progress streams, on a terminal and off it."""

from __future__ import annotations

import pytest

from wherry.cli.progress import Display, StreamError, bar

PULL = (
    b'{"status":"Pulling from x","id":"1"}\r\n{"status":"Pulling fs layer","progressDetail":{},"id":"abc"}\r\n'
    b'{"status":"Downloading","progressDetail":{"current":5,"total":10},"progress":"x","id":"abc"}\r\n{"status":"Pull complete",'
    b'"progressDetail":{},"id":"abc"}\r\n{"status":"Digest: sha256:1"}\r\n'
)


def shown(pieces: list[bytes], width: int = 0) -> str:
    said: list[str] = []
    Display(said.append, width).show_all(pieces)
    return "".join(said)


def test_off_a_terminal_only_finished_steps_are_printed() -> None:
    assert shown([PULL]) == "1: Pulling from x\nabc: Pulling fs layer\nabc: Pull complete\nDigest: sha256:1\n"


def test_pieces_may_be_cut_anywhere() -> None:
    assert shown([PULL[at : at + 1] for at in range(len(PULL))]) == shown([PULL])


def test_on_a_terminal_a_layer_keeps_its_line() -> None:
    text = shown([PULL], 120)
    assert "\x1b[1A\x1b[2K\rabc: Downloading [=========================>                         ]       5B/10B\r\x1b[1B" in text


def test_error_in_the_stream_is_raised_with_the_exit_code_of_the_step() -> None:
    with pytest.raises(StreamError) as caught:
        shown([b'{"stream":"a"}{"errorDetail":{"code":3,"message":"returned a non-zero code: 3"},"error":"x"}'])
    assert (str(caught.value), caught.value.status) == ("returned a non-zero code: 3", 3)


def test_stream_cut_short_is_an_error() -> None:
    with pytest.raises(StreamError):
        shown([b'{"status":"half'])


def test_status_of_a_registry_cannot_drive_the_terminal() -> None:
    assert shown([b'{"status":"\\u001b[2J","id":"\\u009bx"}']) == "\\x9bx: \\x1b[2J\n"


def test_aux_is_handed_over_and_not_shown() -> None:
    found: list[object] = []
    Display(lambda text: None, 0, found.append).show({"aux": {"ID": "sha256:1"}})
    assert found == [{"ID": "sha256:1"}]


def test_bar_without_a_total_shows_the_size_only() -> None:
    assert (bar({"current": 1500}, 0), bar({}, 0), bar({"current": 11, "total": 10}, 80)) == ("   1.5kB", "", "     11B")
