"""On moto's server: S3 as a process of its own, spoken to over HTTP."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.registry import conformance
from tests.registry.conftest import WHERRY, digest_of
from tests.registry.objects_suite import ObjectsSuite
from tests.system.waiting import logged

from wherry.registry.bucket import Bucket, open_bucket

pytestmark = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("boto3", "moto", "flask")), reason="needs the packages boto3 and moto[server]"
)
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@contextlib.contextmanager
def bucket_server(log: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The URL and the process of a server that has the bucket ``images``."""
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        try:
            url = logged(log, r"Running on (http://127\.0\.0\.1:\d+)", process)
            urllib.request.urlopen(urllib.request.Request(f"{url}/images", method="PUT")).close()
            yield url, process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with bucket_server(tmp_path_factory.mktemp("moto") / "log") as (url, _):
        yield url


@pytest.fixture
def objects(store: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Bucket:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    return open_bucket(f"s3://images/{abs(hash(request.node.name))}/deep", endpoint=store)


class TestBucket(ObjectsSuite):
    pass


def test_more_keys_than_one_answer_holds_are_all_listed(objects: Bucket) -> None:
    small = Bucket(objects._client, "images", "paged", page=3)
    names = [f"k{number}" for number in range(8)]
    for name in names:
        small.write(f"many/{name}", b"")
        small.write(f"many/{name}/deep", b"")
    assert small.children("many") == names


def test_a_registry_keeps_images_in_a_bucket_and_serves_them_from_another_directory(serve: Any, store: str, tmp_path: Path) -> None:
    layer = os.urandom(20 << 20)
    flags = ("--s3", "s3://images/registry", "--s3-endpoint", store)
    with serve(*flags, environment=KEYS) as registry:
        digest, raw = registry.push("in/bucket", "1", layer)
        registry.blob("in/bucket", b"left over")
        assert registry.call("POST", f"/v2/other/blobs/uploads/?mount={digest_of(layer)}&from=in/bucket").status == 201
        collector = subprocess.run(
            [WHERRY, "registry", "gc", "--data", str(tmp_path / "registry"), *flags, "--older-than", "0s"],
            env={**os.environ, **KEYS},
            capture_output=True,
            text=True,
            check=True,
        )
        assert collector.stdout == "Removed 0 manifests, 1 blobs (9 bytes), 2 links of repositories to blobs\n"
        assert os.listdir(tmp_path / "registry" / "uploads") == []
    with serve(*flags, data=tmp_path / "empty", environment=KEYS) as registry:
        assert registry.call("GET", "/v2/_catalog").json == {"repositories": ["in/bucket"]}
        assert registry.call("GET", "/v2/in/bucket/manifests/1").body == raw
        path = f"/v2/in/bucket/blobs/{digest_of(layer)}"
        assert registry.call("GET", path).body == layer
        part = registry.call("GET", path, headers={"Range": "bytes=1000000-1000009"})
        assert (part.status, part.body) == (206, layer[1_000_000:1_000_010])
        assert registry.call("DELETE", f"/v2/in/bucket/manifests/{digest}").status == 202
        assert registry.call("GET", "/v2/in/bucket/tags/list").code == "NAME_UNKNOWN"
        conformance.check_storage(registry)


def test_a_bucket_that_is_not_there_is_named_at_the_start(store: str, tmp_path: Path) -> None:
    command = [WHERRY, "registry", "serve", "--data", str(tmp_path), "--s3", "s3://missing/x", "--s3-endpoint", store]
    done = subprocess.run(command, env={**os.environ, **KEYS}, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 1
    assert "missing" in done.stderr


@pytest.mark.parametrize("address", ["https://images", "s3://", "s3://a@b/", "images", "s3://a/b?c"])
def test_an_address_that_is_no_buckets_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="is not s3://BUCKET"):
        open_bucket(address)


def test_a_store_that_fails_is_no_fault_of_the_clients(serve: Any, tmp_path: Path) -> None:
    with (
        bucket_server(tmp_path / "moto.log") as (url, process),
        serve("--s3", "s3://images", "--s3-endpoint", url, environment={**KEYS, "AWS_MAX_ATTEMPTS": "1"}) as registry,
    ):
        path = registry.begin("a")
        process.kill()
        process.wait()
        answer = registry.call("PUT", f"{path}?digest={digest_of(b'data')}", b"data")
        assert (answer.status, answer.code) == (503, "UNAVAILABLE")
        assert registry.call("GET", path).headers["range"] == "0-3"  # the upload is kept: it can be finished later
