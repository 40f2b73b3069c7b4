"""Query values as Docker reads them."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.api import parameters
from wherry.errors import InvalidRequest
from wherry.spec.docker.system import AuthConfig

KEYS = st.text(max_size=10)
VALUES = st.lists(st.text(max_size=10), max_size=4, unique=True)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_both_forms_of_a_filter_mean_the_same(wanted: dict[str, list[str]]) -> None:
    as_lists = parameters.filters(json.dumps(wanted))
    as_maps = parameters.filters(json.dumps({key: dict.fromkeys(values, True) for key, values in wanted.items()}))
    assert as_lists == as_maps == {key: tuple(values) for key, values in wanted.items()}


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_a_filter_or_an_invalid_request(text: str) -> None:
    with contextlib.suppress(InvalidRequest):
        parameters.filters(text)


@pytest.mark.parametrize("text", ["x", "[]", "1", '{"a":1}', '{"a":"b"}', '{"a":{"b":1}}', '{"a":[1]}', "[" * 5000])
def test_a_filter_of_another_shape_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="invalid filter"):
        parameters.filters(text)


@pytest.mark.parametrize(
    ("text", "value"), [("", False), ("0", False), ("no", False), (" False ", False), ("NONE", False), ("1", True), ("x", True)]
)
def test_a_boolean_is_false_only_for_five_words(text: str, value: bool) -> None:
    assert parameters.boolean(text) is value


@pytest.mark.parametrize(
    ("text", "value"),
    [("", 0), ("1", 1_000_000_000), ("1.5", 1_500_000_000), ("1795231815.000000001", 1795231815000000001), ("0.1", 100_000_000)],
)
def test_a_moment_is_seconds_with_a_fraction(text: str, value: int) -> None:
    assert parameters.moment_ns(text) == value


@pytest.mark.parametrize("text", ["x", "1.", ".5", "1.1234567890", "1e3", "١", "nan"])
def test_a_bad_moment_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="invalid syntax"):
        parameters.moment_ns(text)


@pytest.mark.parametrize(
    ("text", "value"), [("all", None), ("", None), ("-1", None), ("x", None), ("0", 0), ("12", 12), ("+5", 5), ("++5", None)]
)
def test_a_bad_tail_means_everything(text: str, value: int | None) -> None:
    assert parameters.tail(text) == value


@pytest.mark.parametrize("encode", [base64.urlsafe_b64encode, base64.b64encode])
def test_credentials_are_read_in_both_alphabets_with_and_without_padding(encode: Callable[[bytes], bytes]) -> None:
    raw = json.dumps({"username": "a", "password": "ÿþ?>~~"}).encode()
    text = encode(raw)
    expected = AuthConfig(username="a", password="ÿþ?>~~")
    assert parameters.registry_auth(text.decode()) == parameters.registry_auth(text.decode().rstrip("=")) == expected


@pytest.mark.parametrize("header", ["", "e30=", "!!!", "bnVsbA==", "W10=", "eyJ1c2VybmFtZSI6MX0="])
def test_absent_or_unreadable_credentials_are_none(header: str) -> None:
    assert parameters.registry_auth(header) is None


def test_credentials_of_a_build_are_by_registry() -> None:
    text = base64.urlsafe_b64encode(b'{"r:5000":{"username":"u"}}').decode()
    assert parameters.registry_config(text) == {"r:5000": AuthConfig(username="u")}
    assert parameters.registry_config("") == {}


def test_a_query_keeps_every_value_in_order() -> None:
    assert parameters.parse_query("t=a&x=&t=b%20c&y") == {"t": ["a", "b c"], "x": [""], "y": [""]}


def test_a_query_with_thousands_of_fields_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="malformed query"):
        parameters.parse_query("a&" * 10_000)


def test_a_json_parameter_of_another_shape_names_the_parameter() -> None:
    assert parameters.json_value('{"A":null,"B":"x"}', dict[str, str | None], {}, "build args") == {"A": None, "B": "x"}
    with pytest.raises(InvalidRequest, match="error reading build args"):
        parameters.json_value("[]", dict[str, str | None], {}, "build args")
