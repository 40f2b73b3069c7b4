"""Values as Go prints them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.cli.template_values import format_value, sprintf, to_json


@pytest.mark.parametrize(
    ("layout", "values", "text"),
    [
        ("%d %s %q %v %x %5d|%-5d|%05d", (5, "a", "b\n", True, 255, 42, 42, 42), '5 a "b\\n" true ff    42|42   |00042'),
        ("%d", ("x",), "%!d(string=x)"),
        ("%s", (), "%!s(MISSING)"),
        ("a", (1, 2), "a%!(EXTRA int=1, int=2)"),
        ("%6.2f %v %g %e", (3.14159, 2.5, 1e21, 1.5), "  3.14 2.5 1e+21 1.500000e+00"),
        ("%v %v %v", (1.0, 1e20, 123456789.5), "1 1e+20 1.234567895e+08"),
        ("%", (), "%!(NOVERB)"),
        ("%*d %999999999d", (5, 42, 1), "   42 %!(BADWIDTH)1"),
    ],
)
def test_printf_formats_as_go(layout: str, values: tuple[object, ...], text: str) -> None:
    assert sprintf(layout, values) == text


def test_json_escapes_html_only_where_docker_does() -> None:
    assert to_json({"b": "<", "a": 1}) == '{"a":1,"b":"<"}'
    assert to_json({"a": "<\n\x01"}, escape_html=True) == '{"a":"\\u003c\\n\\u0001"}'


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=12), st.lists(VALUES, max_size=3))
def test_printf_takes_anything(layout: str, values: list[object]) -> None:
    assert isinstance(sprintf("%" + layout, values), str)
    assert all(isinstance(format_value(value), str) for value in values)
