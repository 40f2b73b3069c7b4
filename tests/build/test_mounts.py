"""RUN --mount options, and stacks of layers seen at a path."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wherry.build.failures import DockerfileError
from wherry.build.instructions import Run, read
from wherry.build.mounts import RunMount, bind_layers, cache_directory, read_mounts
from wherry.build.parse import parse
from wherry.build.state import Expander


def mounts(flag: str) -> tuple[RunMount, ...]:
    instruction = read(parse(f"RUN --mount={flag} x".encode()).lines[0])
    assert isinstance(instruction, Run)
    return read_mounts(instruction, Expander(values={"V": "v"}, escape="\\", instruction=instruction), "/w")


def test_forms() -> None:
    (bound,) = mounts("target=/m,src=a/../b,rw")
    assert (bound.kind, bound.target, bound.source, bound.writable) == ("bind", "/m", "b", True)
    (cached,) = mounts("type=cache,dst=rel/$V,sharing=locked,mode=0700,uid=5,ro")
    assert (cached.target, cached.id, cached.sharing, cached.mode, cached.uid, cached.writable) == (
        *("/w/rel/v", "/w/rel/v", "locked", 0o700, 5, False),
    )
    assert mounts("type=tmpfs,target=/t,size=10m")[0].size_bytes == 10 << 20
    assert (mounts("type=secret,id=k")[0].target, mounts("type=secret,id=k,env=E")[0].target) == ("/run/secrets/k", "")


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("type=foo", 'unsupported mount type "foo"'),
        ("type=cache", 'invalid mount target "/"'),
        ("bogus=1", "unexpected key 'bogus' in 'bogus=1'"),
        ("type=cache,target=/x,sharing=foo", 'unsupported sharing value "foo"'),
        ("type=cache,tagret=/x", "unexpected key 'tagret' in 'tagret=/x' (did you mean target?)"),
        ("type=tmpfs,from=x,target=/y", "unexpected key 'from' for mount type 'tmpfs'"),
        ("type=bind,target=/x,bind-propagation=/..", "unexpected key 'bind-propagation' in 'bind-propagation=/..'"),
        ("type=cache,target=../../..", 'invalid mount target "/"'),
        ("type=cache,target=/x,mode=9", "invalid value 9 for mode"),
    ],
)
def test_faults(flag: str, message: str) -> None:
    with pytest.raises(DockerfileError) as fault:
        mounts(flag)
    assert str(fault.value) == message


def test_a_cache_id_never_becomes_a_path() -> None:
    assert os.path.dirname(cache_directory("/root", "", "../../etc")) == "/root"
    assert cache_directory("/r", "a", "x") != cache_directory("/r", "b", "x")


@pytest.mark.root
def test_layers_are_stacked_as_overlayfs_would(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    low, middle, top = (tmp_path / name for name in ("low", "middle", "top"))
    for layer, name in ((low, "d/x"), (middle, "d/y"), (top, "d/z"), (low, "gone/f"), (low, "op/f"), (middle, "op/g"), (low, "file")):
        (layer / name).parent.mkdir(parents=True, exist_ok=True)
        (layer / name).write_text(name)
    os.mknod(top / "gone", 0o020000, 0)
    os.setxattr(middle / "op", "trusted.overlay.opaque", b"y")
    layers = [str(top), str(middle), str(low)]
    stacked = bind_layers(layers, "d", "/t", None)
    assert stacked["options"] == [f"lowerdir={top}/d:{middle}/d:{low}/d", "ro"]
    assert bind_layers(layers, "op", "/t", None)["source"] == f"{middle}/op"
    assert bind_layers(layers, "file", "/t", None)["source"] == f"{low}/file"
    for missing in ("gone", "gone/f", "nosuch"):
        with pytest.raises(FileNotFoundError):
            bind_layers(layers, missing, "/t", None)


@pytest.mark.root
def test_a_link_that_a_directory_above_hides_is_not_followed_on_the_host(tmp_path: Path) -> None:
    low, top, host = (tmp_path / name for name in ("low", "top", "host"))
    for directory in (low, top / "a/etc", host / "etc"):
        directory.mkdir(parents=True)
    (low / "a").symlink_to(host)
    (host / "etc/secret").write_text("the host's")
    layers = [str(top), str(low)]
    assert bind_layers(layers, "a/etc", "/t", None)["source"] == f"{top}/a/etc"
    assert bind_layers(layers, "a", "/t", None)["source"] == f"{top}/a"
    for path in ("a/etc/secret", "a/etc"):
        with pytest.raises(FileNotFoundError):
            bind_layers([str(low)], path, "/t", None)
