"""Reading a body as tolerantly as Docker does, and writing it as Docker does."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.errors import InvalidRequest
from wherry.spec.docker.body import encode, read
from wherry.spec.docker.container import Config, ContainerCreate, HostConfig, Mount, PortBinding
from wherry.spec.docker.network import NetworkCreate


def create(data: Any) -> ContainerCreate:
    return read(ContainerCreate, json.dumps(data).encode())


def test_null_means_not_given() -> None:
    everything = dict.fromkeys((*ContainerCreate.__struct_encode_fields__, "Unknown"))
    assert create(everything) == ContainerCreate()
    assert create({"HostConfig": dict.fromkeys(HostConfig.__struct_encode_fields__)}).host_config == HostConfig()


def test_names_match_in_any_case_and_the_exact_one_wins() -> None:
    assert create({"image": "a", "hostconfig": {"MEMORY": 5}}).image == "a"
    assert create({"hostconfig": {"MEMORY": 5}}).host_config == HostConfig(memory=5)
    assert create({"Image": "a", "image": "b"}).image == create({"image": "b", "Image": "a"}).image == "a"


def test_a_command_may_be_one_string() -> None:
    body = create({"Cmd": "echo", "Entrypoint": "sh", "Env": ["A=1"]})
    assert (body.cmd, body.entrypoint, body.env) == (["echo"], ["sh"], ["A=1"])
    assert create({"HostConfig": {"CapAdd": "ALL"}}).host_config == HostConfig(cap_add=["ALL"])


def test_an_empty_list_is_not_an_absent_one() -> None:
    assert create({"Entrypoint": []}).entrypoint == []
    assert create({}).entrypoint is None


def test_members_of_a_map_may_be_null() -> None:
    body = create({"ExposedPorts": {"80/tcp": None, "81/tcp": {}}, "HostConfig": {"PortBindings": {"80/tcp": None}}})
    assert body.exposed_ports == {"80/tcp": None, "81/tcp": {}}
    assert body.host_config is not None
    assert body.host_config.port_bindings == {"80/tcp": None}


def test_names_within_lists_and_maps_are_matched_too() -> None:
    body = create({"HostConfig": {"portbindings": {"80/tcp": [{"hostport": "1", "HostIp": None}]}, "Mounts": [{"target": "/t"}]}})
    assert body.host_config is not None
    assert body.host_config.port_bindings == {"80/tcp": [PortBinding(host_port="1")]}
    assert body.host_config.mounts == [Mount(target="/t")]


def test_what_omits_itself_when_empty_and_what_does_not() -> None:
    fields = msgspec.json.decode(encode(Config()))
    assert {"Hostname", "Env", "Cmd", "Volumes", "Labels", "Entrypoint"} <= fields.keys()
    assert {"Healthcheck", "MacAddress", "StopSignal", "ExposedPorts"}.isdisjoint(fields)
    assert (fields["Env"], fields["Labels"]) == (None, {})


def test_two_bodies_share_no_list() -> None:
    first, second = Config(), Config()
    assert first.labels is not None
    first.labels["a"] = "b"
    assert second.labels == {}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "invalid JSON: got EOF while reading request body"),
        (b" \n", "invalid JSON: got EOF while reading request body"),
        (b"{} x", "unexpected content after JSON"),
        (b'{"Name":"a', "invalid JSON: unexpected EOF"),
        (b'{"Name":1}', "invalid JSON: "),
        (b"\xff", "invalid JSON: "),
        (b'{"Name":"\xff"}', "invalid JSON: "),
        (b"[" * 5000, "invalid JSON: "),
    ],
)
def test_what_cannot_be_read_is_an_invalid_request(raw: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(NetworkCreate, raw)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 2**70])
def test_a_number_that_clients_could_not_read_any_more_is_refused(number: int) -> None:
    message = f"invalid JSON: json: cannot unmarshal number {number} into Go value of type int64"
    with pytest.raises(InvalidRequest, match=message):
        read(ContainerCreate, b'{"HostConfig":{"Memory":%d}}' % number)
    with pytest.raises(InvalidRequest, match=message):
        read(ContainerCreate, b'{"HostConfig":{"Ulimits":[{"Name":"cpu","Hard":%d}]}}' % number)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["Image", "Cmd", "hostconfig", "Memory", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(VALUES)
def test_any_json_is_a_body_or_an_invalid_request(data: Any) -> None:
    try:
        body = create(data)
    except InvalidRequest:
        return
    assert read(ContainerCreate, encode(body)) == body


@pytest.mark.parametrize("part", [b"[]", b"{}", b'""'])
def test_a_body_of_many_small_values_is_not_read(part: bytes) -> None:
    """Each costs three bytes to send and sixty to hold."""
    with pytest.raises(InvalidRequest, match="too many values in one document"):
        read(Config, b'{"x":[' + b",".join([part] * 250_000) + b"]}")
