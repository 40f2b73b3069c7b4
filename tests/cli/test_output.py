"""Tables, sizes and times as Docker prints them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.cli import output
from wherry.cli.template import TemplateError

LISTING = output.Listing("*formatter.thing", {"ID": "THING ID", "Name": "NAME", "Size": "SIZE"}, ("ID", "Name"), (("name", "Name"),))
ROWS = [{"ID": "41e509bbc345", "Name": "a", "Size": "1B"}, {"ID": "2", "Name": "long name", "Size": "<2>"}]


def test_table_has_three_spaces_between_columns_and_none_after_the_last() -> None:
    assert LISTING.text(ROWS) == "THING ID       NAME\n41e509bbc345   a\n2              long name\n"


def test_narrow_columns_are_ten_wide() -> None:
    assert output.table([["A", "B"], ["1", "2"]]) == "A         B\n1         2\n"


def test_custom_table_has_the_titles_of_its_fields() -> None:
    assert LISTING.text(ROWS, "table {{.Name}}\\t{{upper .ID}}") == "NAME        THING ID\na           41E509BBC345\nlong name   2\n"


def test_json_rows_escape_html_and_sort_keys() -> None:
    assert LISTING.text(ROWS[1:], "json") == '{"ID":"2","Name":"long name","Size":"\\u003c2\\u003e"}\n'
    assert LISTING.text(ROWS[1:], "{{json .}}") == LISTING.text(ROWS[1:], "json")


def test_raw_rows_end_with_an_empty_line() -> None:
    assert LISTING.text(ROWS[:1], "raw") == "name: a\n\n"


def test_unknown_field_is_told_with_the_type() -> None:
    with pytest.raises(TemplateError, match=r"can't evaluate field Bogus in type \*formatter.thing"):
        LISTING.text(ROWS, "{{.Bogus}}")


def test_control_characters_do_not_reach_the_terminal() -> None:
    row = {"ID": "\x1b[2J", "Name": "\x9b31m", "Size": ""}
    assert LISTING.text([row]) == "THING ID   NAME\n\\x1b[2J    \\x9b31m\n"


def test_lines_without_a_cell_end_a_column_block() -> None:
    assert output.align("a\tb\nccc\td\n\nlong long\te", minimum=0) == "a     b\nccc   d\n\nlong long   e"


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0B"), (999, "999B"), (1982263, "1.982MB"), (51900, "51.9kB"), (3072, "3.072kB"), (10**15, "1PB")]
)
def test_decimal_sizes_have_four_digits(count: int, text: str) -> None:
    assert output.size(count) == text


def test_binary_sizes() -> None:
    assert (output.binary_size(524288), output.binary_size(104857600)) == ("512KiB", "100MiB")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "Less than a second"), (1, "1 second"), (59, "59 seconds"), (60, "About a minute"), (119, "About a minute"),
        (120, "2 minutes"),
        (3599, "59 minutes"), (3600, "About an hour"), (7200, "2 hours"), (47 * 3600, "47 hours"), (48 * 3600, "2 days"),
        (14 * 86400, "2 weeks"), (60 * 86400, "2 months"), (731 * 86400, "2 years"),
    ],
)  # fmt: skip
def test_durations_read_as_docker_says_them(seconds: float, text: str) -> None:
    assert output.duration(seconds) == text


@settings(max_examples=100, deadline=None)
@given(st.integers(min_value=0, max_value=4_000_000_000), st.integers(min_value=-14, max_value=14))
def test_times_are_read_in_any_zone(seconds: int, hours: int) -> None:
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds + hours * 3600))
    zone = f"{'-' if hours < 0 else '+'}{abs(hours):02d}:00" if hours else "Z"
    assert output.parse_time(f"{text}.250{zone}") == seconds + 0.25


@pytest.mark.parametrize("text", ["", "x", "2026", "2026-11-21T", "2026-13-01T00:00:00Z"])
def test_what_is_no_time_is_zero(text: str) -> None:
    assert output.parse_time(text) == 0.0


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="ab\t\n", max_size=40))
def test_align_keeps_every_letter(text: str) -> None:
    made = output.align(text)
    assert made.replace(" ", "") == text.replace("\t", "")
