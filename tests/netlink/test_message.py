from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.netlink import message

PAIRS = st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=300)), max_size=8)


@settings(max_examples=100)
@given(PAIRS)
def test_attributes_read_back_what_was_written(pairs: list[tuple[int, bytes]]) -> None:
    data = b"".join(message.attribute(kind, value) for kind, value in pairs)
    assert len(data) % 4 == 0
    assert list(message.attributes(data)) == pairs


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.integers(0, 2**32 - 1), st.binary(max_size=200)), max_size=5))
def test_messages_read_back_what_was_written(items: list[tuple[int, int, int, bytes]]) -> None:
    data = b"".join(message.pack(*item) for item in items)
    assert [(one.kind, one.flags, one.sequence, one.payload) for one in message.unpack(data)] == items


@settings(max_examples=100)
@given(st.binary(max_size=100))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for parse in (message.unpack, message.attributes):
        with suppress(ValueError):
            list(parse(data))


def test_value_longer_than_the_length_field_is_refused() -> None:
    message.attribute(1, bytes(65531))
    with pytest.raises(ValueError, match="too long"):
        message.attribute(1, bytes(65532))


def test_nested_attribute_has_its_flag_and_reads_as_its_kind() -> None:
    data = message.nest(18, message.text(1, "veth"))
    assert data.hex() == "10001280" + "09000100" + b"veth".hex() + "00000000"
    assert message.table(message.table(data)[18])[1] == b"veth\0"
