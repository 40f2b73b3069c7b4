"""Binds, mounts, tmpfs and VOLUME paths become one list."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.containers import mounts
from wherry.containers.record import MountRecord
from wherry.errors import EngineError, InvalidRequest
from wherry.spec.docker.container import BindOptions, HostConfig, ImageOptions, Mount, TmpfsOptions, VolumeOptions


def test_a_bind_has_a_path_and_a_volume_a_name() -> None:
    bind = mounts.parse_bind("/host/../srv:/data:ro,rslave")
    assert (bind.type, bind.source, bind.destination, bind.read_only, bind.propagation) == ("bind", "/srv", "/data", True, "rslave")
    volume = mounts.parse_bind("name:/data")
    assert (volume.type, volume.name, volume.copy_up, volume.mode) == ("volume", "name", True, "z")
    assert not mounts.parse_bind("name:/data:nocopy").copy_up
    anonymous = mounts.parse_bind("/data")
    assert (anonymous.type, anonymous.destination, anonymous.anonymous) == ("volume", "/data", True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("/a:/b:bogus", "invalid mode: bogus"),
        ("/a:/b:ro,rw", "invalid mode: ro,rw"),
        ("/a:/b:z,Z", "invalid mode: z,Z"),
        ("/a:/b:shared,rslave", "invalid mode: shared,rslave"),
        ("/a:/b:nocopy", "'/a:/b:nocopy': invalid mount config for type \"bind\": field VolumeOptions must not be specified"),
        ("name:/b:shared", "'name:/b:shared': invalid mount config for type \"volume\": field BindOptions must not be specified"),
        ("rel/path:/x", 'create rel/path: "rel/path" includes invalid characters for a local volume name'),
        ("a", "invalid volume specification: 'a'"),
        ("/a:/", "destination can't be '/'"),
        ("/a:/proc", "cannot be mounted because it is inside /proc"),
        ("/a:/x/../proc/self", "cannot be mounted because it is inside /proc"),
        ("/a:b", "mount path must be absolute"),
        ("/a:ro,z", "invalid volume specification: '/a:ro,z'"),
        ("a:/b", "create a: volume name is too short, names should be at least two alphanumeric characters"),
    ],
)
def test_bad_binds_are_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        mounts.parse_bind(text)
    assert message in str(caught.value)


@given(st.text(max_size=40))
def test_any_text_is_a_bind_or_refused(text: str) -> None:
    try:
        record = mounts.parse_bind(text)
    except InvalidRequest:
        return
    assert record.destination.startswith("/")
    assert record.destination != "/"
    assert ".." not in record.destination.split("/")
    assert not record.destination.startswith("/proc/")


def test_a_mount_of_each_type() -> None:
    bind = mounts.parse_mount(
        Mount(type="bind", source="/s", target="/t", bind_options=BindOptions(propagation="shared", non_recursive=True))
    )
    assert (bind.propagation, bind.non_recursive, bind.spec) == ("shared", True, "mounts")
    volume = mounts.parse_mount(Mount(type="volume", source="vol", target="/t", volume_options=VolumeOptions(no_copy=True, subpath="x")))
    assert (volume.anonymous, volume.copy_up, volume.subpath) == (False, False, "x")
    tmpfs = mounts.parse_mount(Mount(type="tmpfs", target="/t", tmpfs_options=TmpfsOptions(size_bytes=1024, mode=0o700)))
    assert tmpfs.options == ["size=1024", "mode=700"]


@pytest.mark.parametrize(
    ("mount", "message"),
    [
        (Mount(type="bogus", target="/t"), 'invalid mount config for type "bogus": mount type unknown'),
        (Mount(type="bind", target="/t"), "field Source must not be empty"),
        (Mount(type="bind", source="/s"), "field Target must not be empty"),
        (Mount(type="tmpfs", source="/s", target="/t"), "field Source must not be specified"),
        (Mount(type="npipe", source="x", target="/t"), 'invalid mount config for type "npipe": mount type unknown'),
        (Mount(type="image", target="/t"), "field Source must not be empty"),
        (Mount(type="image", source="x", target="/t", image_options=ImageOptions(subpath="a/../../b")), "must be a relative path"),
        (
            Mount(type="volume", source="vol", target="/t", volume_options=VolumeOptions(subpath="/b")),
            '"volume": subpath must be a relative',
        ),
        (Mount(type="volume", target="/t", bind_options=BindOptions()), 'BindOptions must not be specified on mount type "volume"'),
        (Mount(type="image", source="x", target="/t", tmpfs_options=TmpfsOptions()), "TmpfsOptions must not be specified on mount type"),
        (Mount(type="cluster", target="/t", volume_options=VolumeOptions()), 'VolumeOptions must not be specified on mount type "cluster"'),
        (
            Mount(type="tmpfs", target="/t", image_options=ImageOptions()),
            'invalid mount config for type "tmpfs": field ImageOptions must not be specified',
        ),
        (
            Mount(type="volume", target="/t", read_only=True),
            'invalid mount config for type "volume": must not set ReadOnly mode when using anonymous volumes',
        ),
        (
            Mount(type="volume", target="/t", volume_options=VolumeOptions(subpath="a")),
            'invalid mount config for type "volume": must not set Subpath when using anonymous volumes',
        ),
    ],
)
def test_bad_mounts_are_refused(mount: Mount, message: str) -> None:
    with pytest.raises(EngineError) as caught:
        mounts.parse_mount(mount)
    assert message in str(caught.value)


def test_a_relative_path_that_an_image_declares_is_below_the_root() -> None:
    assert [record.destination for record in mounts.collect(HostConfig(), ["data/x", "/abs"])] == ["/data/x", "/abs"]


def test_what_was_asked_for_covers_what_the_image_declares_and_what_is_inherited() -> None:
    inherited = [MountRecord(type="volume", destination="/data", name="other"), MountRecord(type="bind", destination="/keep", source="/k")]
    host = HostConfig(binds=["mine:/data"], tmpfs={"/t": "size=1m,ro"})
    found = {mount.destination: mount for mount in mounts.collect(host, ["/data", "/declared"], inherited)}
    assert found["/data"].name == "mine"
    assert found["/keep"].source == "/k"
    assert found["/t"].options == ["size=1m", "ro"]
    assert found["/declared"].anonymous
    assert len(found) == 4


def test_one_destination_twice_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="Duplicate mount point: /x"):
        mounts.collect(HostConfig(binds=["a1:/x", "b1:/x"]), [])


@pytest.mark.parametrize(
    ("propagation", "fields", "message"),
    [
        ("rshared", "shared:7", ""),
        ("slave", "shared:7", ""),
        ("rslave", "master:3", ""),
        ("shared", "", "path /a/b is mounted on /a but it is not a shared mount"),
        ("rshared", "master:3", "path /a/b is mounted on /a but it is not a shared mount"),
        ("rslave", "", "path /a/b is mounted on /a but it is not a shared or slave mount"),
    ],
)
def test_only_a_mount_that_is_shared_can_pass_mounts_on(propagation: str, fields: str, message: str) -> None:
    record = mounts.parse_bind(f"/a/b:/x:{propagation}")
    if not message:
        mounts.check_propagation(record, "/a", fields)
        return
    with pytest.raises(InvalidRequest) as caught:
        mounts.check_propagation(record, "/a", fields)
    assert str(caught.value) == message
