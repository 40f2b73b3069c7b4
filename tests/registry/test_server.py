"""Our registry as its clients meet it: a repository's life beside the distribution project's registry, and what hostile clients send."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import json
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.registry import conformance
from tests.registry.conftest import CONFIG, OCI_MANIFEST, WHERRY, Registry, digest_of, manifest_of
from tests.system.waiting import until

from wherry.registry import failures
from wherry.registry.bodies import Limits
from wherry.registry.client import Client
from wherry.registry.credentials import Credentials
from wherry.registry.gate import Gate
from wherry.registry.holdings import Holdings
from wherry.registry.objects import Directory
from wherry.registry.server import RegistryServer
from wherry.registry.uploads import Uploads
from wherry.spec.digest import sha256
from wherry.spec.image import Descriptor
from wherry.spec.reference import Reference

LAYER = bytes(range(256)) * 40
NOTHING = "sha256:" + "0" * 64


def _story(registry: Registry) -> list[tuple[Any, ...]]:
    """A life of a repository: what is answered to each request."""
    seen: list[tuple[Any, ...]] = []

    def note(what: str, answer: Any, *headers: str) -> None:
        code = answer.code if answer.status >= 400 and answer.body else ""
        seen.append((what, answer.status, code, *(answer.headers.get(name) for name in headers)))

    name = "story/of-one.repo"
    digest, raw = registry.push(name, "1", LAYER)
    layer = digest_of(LAYER)
    blob = f"/v2/{name}/blobs/{layer}"
    note("ping", registry.call("GET", "/v2/"), "docker-distribution-api-version")
    accept = {"Accept": json.loads(raw)["mediaType"]}  # that registry hides OCI manifests from who does not ask for them
    note(
        "head", registry.call("HEAD", f"/v2/{name}/manifests/1", headers=accept), "docker-content-digest", "content-length", "content-type"
    )
    note("get", registry.call("GET", f"/v2/{name}/manifests/{digest}", headers=accept), "content-type", "etag")
    note("not acceptable", registry.call("GET", f"/v2/{name}/manifests/1", headers={"Accept": "application/vnd.oci.image.index.v1+json"}))
    note("no tag", registry.call("GET", f"/v2/{name}/manifests/2"))
    note("no repository", registry.call("GET", "/v2/no/where/tags/list"))
    note("bad digest", registry.call("GET", f"/v2/{name}/blobs/sha256:123"))
    note("blob head", registry.call("HEAD", blob), "content-length", "docker-content-digest", "etag")
    note("range", registry.call("GET", blob, headers={"Range": "bytes=10-19"}), "content-range", "content-length")
    note("tail", registry.call("GET", blob, headers={"Range": "bytes=10000-"}), "content-range")
    note("suffix", registry.call("GET", blob, headers={"Range": "bytes=-7"}), "content-range")
    note("no blob", registry.call("GET", f"/v2/{name}/blobs/{NOTHING}"))
    note("known", registry.call("GET", blob, headers={"If-None-Match": f'"{layer}"'}))
    note("mount", registry.call("POST", f"/v2/other/blobs/uploads/?mount={layer}&from={name}"), "docker-content-digest")
    note("mount nothing", registry.call("POST", f"/v2/other/blobs/uploads/?mount={NOTHING}&from={name}"), "range")
    note("mounted", registry.call("HEAD", f"/v2/other/blobs/{layer}"))
    begun = registry.call("POST", f"/v2/{name}/blobs/uploads/")
    note("begin", begun, "range")
    location = begun.headers["location"]
    path = location[location.index("/v2/") :]
    answer = registry.call("PATCH", path, b"12345", {"Content-Range": "0-4", "Content-Type": "application/octet-stream"})
    note("chunk", answer, "range")
    path = answer.headers["location"][answer.headers["location"].index("/v2/") :]
    note("state", registry.call("GET", path), "range")
    note("wrong digest", registry.call("PUT", path + ("&" if "?" in path else "?") + f"digest={NOTHING}"))
    empty = json.dumps({**json.loads(raw), "layers": [{**json.loads(raw)["layers"][0], "digest": NOTHING}]}).encode()
    kind = {"Content-Type": json.loads(raw)["mediaType"]}
    answer = registry.call("PUT", f"/v2/{name}/manifests/3", empty, kind)
    seen.append(("missing layer", answer.status // 100, answer.code))
    note("no JSON", registry.call("PUT", f"/v2/{name}/manifests/3", b"<html>", kind))
    note("other digest", registry.call("PUT", f"/v2/{name}/manifests/{NOTHING}", raw, kind))
    for tag in ("b", "c", "d"):
        registry.push(name, tag, LAYER)
    tags = registry.call("GET", f"/v2/{name}/tags/list")
    seen.append(("tags", tags.json["name"], sorted(tags.json["tags"])))
    note("delete", registry.call("DELETE", f"/v2/{name}/manifests/{digest}"))
    note("deleted", registry.call("GET", f"/v2/{name}/manifests/1"))
    note("delete again", registry.call("DELETE", f"/v2/{name}/manifests/{digest}"))
    note("delete blob", registry.call("DELETE", blob))
    note("deleted blob", registry.call("HEAD", blob))
    note("other keeps it", registry.call("HEAD", f"/v2/other/blobs/{layer}"))
    return seen


def test_a_repository_lives_as_in_the_distribution_projects_registry(ours: Registry, debian: Registry) -> None:
    assert _story(ours) == _story(debian)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_everything_that_ocis_conformance_suite_asks_is_answered_so(ours: Registry, algorithm: str) -> None:
    conformance.check(ours, algorithm)


# --- who may


def _basic(pair: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}


def processor_ticks(pid: int) -> int:
    """The processor's time that a process has used.  Source: proc_pid_stat(5)."""
    return sum(int(field) for field in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13])


def test_passwords_are_asked_for_and_a_changed_file_is_seen(serve: Any, tmp_path: Path) -> None:
    passwords = tmp_path / "htpasswd"
    line = subprocess.run([WHERRY, "registry", "passwd", "ann"], input="s3cret:x\n", capture_output=True, text=True, check=True)
    passwords.write_text(line.stdout)
    with serve("--htpasswd", str(passwords)) as registry:
        refused = registry.call("GET", "/v2/")
        assert (refused.status, refused.code) == (401, "UNAUTHORIZED")
        assert refused.headers["www-authenticate"].startswith("Basic realm=")
        for pair, status in (("ann:s3cret:x", 200), ("ann:wrong", 401), ("bob:s3cret:x", 401), (":", 401)):
            assert registry.call("GET", "/v2/", headers=_basic(pair)).status == status, pair
        assert registry.call("PUT", "/v2/a/manifests/1", b"{}").status == 401
        assert registry.call("GET", "/v2/", headers={"Authorization": "Basic !!"}).status == 401
        assert registry.process is not None
        ticks = processor_ticks(registry.process.pid)
        registry.call("GET", "/v2/", headers=_basic("ann:wrong again"))
        once = processor_ticks(registry.process.pid) - ticks
        for _ in range(20):
            registry.call("GET", "/v2/", headers=_basic("ann:s3cret:x"))
        assert processor_ticks(registry.process.pid) - ticks < 10 * once  # the slow check is made once
        passwords.write_text("# nobody\n")
        assert registry.call("GET", "/v2/", headers=_basic("ann:s3cret:x")).status == 401
        assert registry.log is not None
        assert "s3cret" not in registry.log.read_text()


def test_a_read_only_registry_gives_and_takes_nothing(serve: Any) -> None:
    with serve() as registry:
        digest, raw = registry.push("app", "1", LAYER)
    with serve("--read-only") as registry:
        assert registry.call("GET", "/v2/app/manifests/1").body == raw
        for method, path in (
            ("PUT", "/v2/app/manifests/2"),
            ("POST", "/v2/app/blobs/uploads/"),
            ("DELETE", f"/v2/app/manifests/{digest}"),
            ("DELETE", f"/v2/app/blobs/{digest_of(LAYER)}"),
        ):
            answer = registry.call(method, path, raw)
            assert (answer.status, answer.code) == (405, "UNSUPPORTED")


# --- addresses

PATHS = [
    "/v2/../../etc/passwd/manifests/1",
    "/v2/a/../../b/manifests/1",
    "/v2/a%2f..%2f..%2fb/manifests/1",
    "/v2/a%252f..%252fb/manifests/1",
    "/v2/a%00b/manifests/1",
    "/v2/a%ffb/manifests/1",
    "/v2/a/manifests/..",
    "/v2/a/manifests/%2e%2e%2f%2e%2e%2fx",
    "/v2/a/manifests/.hidden",
    "/v2/a/blobs/uploads/..%2f..%2fx",
    "/v2/a/blobs/uploads/..",
    "/v2/a/blobs/sha256:..%2f..%2f..%2fetc%2fpasswd",
    "/v2/a/blobs/md5:d41d8cd98f00b204e9800998ecf8427e",
    "/v2/a/blobs/sha256:" + "A" * 64,
    "/v2/a/blobs/sha256:" + "0" * 65,
    "/v2/a/referrers/sha256:..",
    "/v2//a/manifests/1",
    "/v2/.hidden/manifests/1",
    "/v2/a:b/tags/list",
    "/v2/a\\b/tags/list",
    "/v2/a/manifests/1%0a",
    "/v2/" + "a/" * 2000 + "manifests/1",
    "/v2/" + "a-" * 300 + "a/tags/list",
    "/v2/a/tags/list/more",
    "/v2/a/nothing/b",
    "/v1/a",
    "//etc/passwd",
    "/v2/a/blobs/uploads/?mount=sha256:..%2f&from=b",
    "/v2/a/blobs/uploads/?mount=" + NOTHING + "&from=..%2f..%2fb",
]


@pytest.mark.parametrize("path", PATHS)
def test_a_name_that_is_none_leads_nowhere(ours: Registry, path: str) -> None:
    for method in ("GET", "PUT", "POST", "DELETE", "PATCH"):
        answer = ours.call(method, path, None if method == "GET" else b"{}")
        assert answer.status in (400, 404, 405), (method, answer.status)
        assert answer.code in ("NAME_INVALID", "NAME_UNKNOWN", "DIGEST_INVALID", "MANIFEST_INVALID", "BLOB_UPLOAD_UNKNOWN", "UNSUPPORTED")


@pytest.mark.parametrize("header", ["Range: bytes=0-1", "Content-Type: text/plain", "Authorization: Basic YTpi", "Content-Range: 0-1"])
def test_a_header_that_counts_is_given_once(ours: Registry, header: str) -> None:
    got = ours.raw(f"GET /v2/ HTTP/1.1\r\nHost: x\r\n{header}\r\n{header}\r\nConnection: close\r\n\r\n".encode())
    assert got.split(b" ")[1] == b"400", got[:100]


HOST = b"Host: x\r\n"
SMUGGLED = {
    "length and chunks": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /v2/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "two lengths": b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n123456",
    "signed length": b"Content-Length: +5\r\n\r\n12345",
    "negative length": b"Content-Length: -1\r\n\r\n",
    "space before the colon": b"Content-Length : 5\r\n\r\n12345",
    "folded line": b"X: a\r\n b\r\n\r\n",
    "unknown coding": b"Transfer-Encoding: identity, chunked, x\r\n\r\n0\r\n\r\n",
    "bad chunk": b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n\r\n",
    "long header": b"X: " + b"a" * 70_000 + b"\r\n\r\n",
    "many headers": b"".join(b"X%d: a\r\n" % number for number in range(5000)) + b"\r\n",
    "nul": b"X: a\x00b\r\n\r\n",
}


@pytest.mark.parametrize("kind", SMUGGLED)
def test_a_request_of_two_meanings_gets_one_refusal_and_the_line_is_cut(ours: Registry, kind: str) -> None:
    got = ours.raw(b"PUT /v2/a/manifests/1 HTTP/1.1\r\n" + HOST + SMUGGLED[kind])
    assert got.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400")), got[:200]
    assert got.count(b"HTTP/1.") == 1


def test_what_is_logged_stays_on_its_line(ours: Registry) -> None:
    ours.call("GET", "/v2/a%0a/tags/list", headers={"User-Agent": 'evil" 200'})
    assert ours.log is not None
    line = next(line for line in ours.log.read_text().splitlines() if "/v2/a%0a/tags/list" in line and "evil" in line)
    assert '"GET /v2/a%0a/tags/list" 404 ' in line
    assert line.endswith('"evil\\" 200"')


def test_two_servers_never_share_a_directory(ours: Registry) -> None:
    assert ours.log is not None
    data = ours.log.parent / "data"
    command = [WHERRY, "registry", "serve", "--listen", "127.0.0.1:0", "--data", str(data)]
    second = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert (second.returncode, second.stderr) == (1, f"wherry registry serve: another registry serves {data}\n")


# --- our own client


def test_our_own_client_pushes_mounts_and_pulls(ours: Registry) -> None:
    data = bytes(range(256)) * 30_000

    async def body() -> None:
        client = Client()
        try:
            first, second = (
                client.repository(Reference(domain=ours.host, path=path), Credentials(), push=True) for path in ("own/a", "own/b")
            )

            async def pieces() -> AsyncIterator[bytes]:
                for start in range(0, len(data), 100_000):
                    yield data[start : start + 100_000]

            layer = sha256(data)
            assert await first.has_blob(layer) is None
            await first.upload(pieces, lambda: layer)
            assert await first.has_blob(layer) == len(data)
            assert await second.mount(layer, "own/a")
            ours.blob("own/b", CONFIG)
            raw = manifest_of(digest_of(CONFIG), layer, len(data))
            assert await second.put_manifest("1", raw, OCI_MANIFEST) == await second.names("1") == digest_of(raw)
            assert (await second.manifest("1")).raw == raw
            assert await second.tags() == ["1"]
            got: list[bytes] = []

            async def keep(piece: bytes) -> None:
                got.append(piece)

            await second.download(Descriptor(media_type="", digest=layer, size=len(data)), keep, start=1000)
            assert b"".join(got) == data[1000:]
            about = {"subject": {"mediaType": OCI_MANIFEST, "digest": digest_of(raw), "size": len(raw)}}
            signed = manifest_of(digest_of(CONFIG), layer, len(data), **about)
            await second.put_manifest(digest_of(signed), signed, OCI_MANIFEST)
            assert [item["digest"] for item in await second.referrers(digest_of(raw))] == [digest_of(signed)]
        finally:
            await client.close()

    asyncio.run(body())


# --- slow and endless clients, against a server with little patience


@contextlib.contextmanager
def impatient(data: Path, limits: Limits) -> Iterator[Registry]:
    """A server of this process, in a thread."""
    ready = threading.Event()
    found: list[Any] = []

    async def run() -> None:
        holdings = Holdings(Directory(str(data / "objects"), str(data / "staging")), Gate(str(data / "gate")))
        server = RegistryServer(holdings, Uploads(str(data / "uploads")), limits=limits)
        stop = asyncio.Event()
        port = await server.start("127.0.0.1", 0)
        found.extend((port, asyncio.get_running_loop(), stop))
        ready.set()
        await stop.wait()
        await server.close()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert ready.wait(60)
    try:
        yield Registry(host=f"127.0.0.1:{found[0]}")
    finally:
        found[1].call_soon_threadsafe(found[2].set)
        thread.join(30)


def is_established(port: int) -> bool:
    """Whether the other side of the connection from this port holds it still."""
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(int(row[2].partition(":")[2], 16) == port and row[3] == "01" for row in rows)  # net/tcp_states.h


def test_who_sends_slowly_or_nothing_is_let_go(tmp_path: Path) -> None:
    with impatient(tmp_path, Limits(stall_s=0.3, idle_s=0.5)) as registry:
        since = time.monotonic()
        for begun in (b"", b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX: never"):
            with registry.connect() as connection:
                connection.sendall(begun)
                assert connection.recv(1) == b""
        assert time.monotonic() - since < 4  # 1.1 with six busy loops beside it on two processors
        path = registry.begin("slow")
        for request in (f"PATCH {path}", "PUT /v2/slow/manifests/1"):
            with registry.connect() as connection:
                connection.sendall(f"{request} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc".encode())
                assert connection.recv(12) == b"HTTP/1.1 408"
        state = registry.call("GET", path)
        assert (state.status, state.headers["range"]) == (204, "0-2")  # what came is kept for a client that comes back


def test_who_reads_nothing_is_let_go(tmp_path: Path) -> None:
    with impatient(tmp_path, Limits(stall_s=0.3)) as registry:
        digest = registry.blob("big", bytes(32 << 20))
        with registry.connect() as connection:
            connection.sendall(f"GET /v2/big/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            until(lambda: not is_established(connection.getsockname()[1]))
            got = 0
            with contextlib.suppress(ConnectionError):
                while piece := connection.recv(1 << 20):
                    got += len(piece)
            assert got < 32 << 20


def test_an_upload_has_a_largest_size(tmp_path: Path) -> None:
    with impatient(tmp_path, Limits(blob_bytes=3 << 20)) as registry:
        path = registry.begin("big")
        answer = registry.call("PATCH", path, bytes(4 << 20))
        assert (answer.status, answer.code) == (413, "SIZE_INVALID")

        def endless() -> Iterator[bytes]:
            while True:
                yield bytes(1 << 20)

        with contextlib.suppress(ConnectionError):
            assert registry.call("PATCH", path, endless()).status == 413
        assert int(registry.call("GET", path).headers["range"].removeprefix("0-")) < 4 << 20


def test_who_comes_when_all_places_are_taken_is_turned_away(tmp_path: Path) -> None:
    with impatient(tmp_path, Limits(connections=3)) as registry, contextlib.ExitStack() as stack:
        for _ in range(3):
            connection = stack.enter_context(registry.connect())
            connection.sendall(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(12) == b"HTTP/1.1 200"
        with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
            registry.call("GET", "/v2/")


def test_five_thousand_layers_and_deep_json_are_refused_in_little_memory(serve: Any) -> None:
    with serve() as registry:
        assert registry.process is not None
        status = Path(f"/proc/{registry.process.pid}/status")
        registry.push("a", "1")
        before = _peak(status)
        entry = {"mediaType": "x/y", "size": 1, "digest": NOTHING}
        layers = json.dumps({**json.loads(manifest_of(NOTHING, NOTHING, 1)), "layers": [entry] * 5000}).encode()
        kind = "application/vnd.oci.image.manifest.v1+json"
        deep = b'{"schemaVersion":2,"mediaType":"%s","annotations":%s}'
        for raw in (
            layers,
            deep % (kind.encode(), b"[" * 100_000 + b"]" * 100_000),
            deep % (kind.encode(), b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
            deep % (kind.encode(), b"[" + b"[]," * 1_300_000 + b"[]]"),
            b'{"schemaVersion":2,"schemaVersion":2}',
            b"\xff\xfe",
            b"",
        ):
            answer = registry.call("PUT", "/v2/a/manifests/2", raw, {"Content-Type": kind})
            assert (answer.status, answer.code) == (400, "MANIFEST_INVALID"), raw[:50]
        answer = registry.call("PUT", "/v2/a/manifests/1", b" " * (5 << 20), {"Content-Type": kind})
        assert (answer.status, answer.code) == (413, "SIZE_INVALID")
        assert _peak(status) - before < 40 << 10


def _peak(status: Path) -> int:
    """The most memory that a process has had, in KiB."""
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))


# --- anything at all

_DIGESTS = st.one_of(
    st.sampled_from([digest_of(b"x"), digest_of(b"x", "sha512"), NOTHING]),
    st.from_regex(r"(sha256|sha512|md5):[0-9a-fA-F]{0,130}", fullmatch=True),
)
_NAMES = st.one_of(st.sampled_from(["a", "fuzz/x"]), st.text(alphabet="ab0._-/:%\\ \x00é~@", max_size=12))
_ADDRESSES = st.one_of(
    st.builds("/v2/{}/manifests/{}".format, _NAMES, st.one_of(_DIGESTS, st.text(max_size=9))),
    st.builds("/v2/{}/blobs/{}".format, _NAMES, _DIGESTS),
    st.builds("/v2/{}/blobs/uploads/{}".format, _NAMES, st.one_of(st.just(""), st.text(max_size=45))),
    st.builds("/v2/{}/referrers/{}".format, _NAMES, _DIGESTS),
    st.builds("/v2/{}/tags/list".format, _NAMES),
    st.text(max_size=20),
)
_QUERIES = st.dictionaries(
    st.sampled_from(["n", "last", "digest", "mount", "from", "artifactType"]),
    st.one_of(_DIGESTS, _NAMES, st.integers().map(str)),
    max_size=3,
)
_HEADERS = st.dictionaries(
    st.sampled_from(["Range", "Content-Range", "Content-Type", "Accept", "If-None-Match", "If-Range", "Expect", "Content-Encoding"]),
    st.one_of(st.sampled_from(["bytes=0-", "0-0", "5-2", "gzip", "100-continue", "*/*"]), st.text(alphabet='ab09=,;/*" -', max_size=12)),
    max_size=3,
)
_ENTRY = st.fixed_dictionaries({"mediaType": st.just("a/b"), "digest": _DIGESTS, "size": st.integers(-1, 2**64)})
_DOCUMENTS = st.one_of(
    st.binary(max_size=30),
    st.fixed_dictionaries(
        {"schemaVersion": st.sampled_from([2, 1, None])},
        optional={"config": _ENTRY, "layers": st.lists(_ENTRY, max_size=2), "manifests": st.lists(_ENTRY, max_size=2), "subject": _ENTRY},
    ).map(lambda fields: json.dumps(fields).encode()),
)


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"]), _ADDRESSES, _QUERIES, _HEADERS, _DOCUMENTS)
def test_anything_gets_an_answer_and_every_refusal_a_code(
    ours: Registry, method: str, address: str, query: dict[str, str], headers: dict[str, str], body: bytes
) -> None:
    path = quote(address, safe="/:%") + ("?" + urlencode(query) if query else "")
    if not path.startswith("/"):
        path = "/" + path
    answer = ours.call(method, path, body, headers)
    assert answer.status < 500
    assert answer.status < 400 or method == "HEAD" or answer.code in failures.STATUS or answer.headers["server"].startswith("Python")
