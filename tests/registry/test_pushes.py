from __future__ import annotations

import gzip
import json
import signal
import threading
from typing import Any

import pytest
from tests.registry.conftest import CONFIG, OCI_INDEX, OCI_MANIFEST, Registry, digest_of, manifest_of

LAYER = bytes(range(256)) * 40
NOTHING = "sha256:" + "0" * 64


def test_a_blob_comes_in_chunks_though_the_server_is_killed_between_them(serve: Any) -> None:
    with serve() as registry:
        path = registry.begin("a")
        answer = registry.call("PATCH", path, LAYER[:5000], {"Content-Range": "0-4999"})
        assert (answer.status, answer.headers["range"]) == (202, "0-4999")
        registry.process.send_signal(signal.SIGKILL)
        registry.process.wait()
    with serve() as registry:
        state = registry.call("GET", path)
        assert (state.status, state.headers["range"], state.headers["location"]) == (204, "0-4999", path)
        for wrong in ("0-9", "5001-5010", "4999-5008"):
            gap = registry.call("PATCH", path, LAYER[:10], {"Content-Range": wrong})
            assert (gap.status, gap.headers["range"], gap.headers["location"], gap.code) == (416, "0-4999", path, "BLOB_UPLOAD_INVALID")
        assert registry.call("PUT", f"{path}?digest={digest_of(LAYER)}", LAYER[5000:], {"Content-Range": "5000-10239"}).status == 201
        assert registry.call("GET", f"/v2/a/blobs/{digest_of(LAYER)}").body == LAYER
        assert registry.call("GET", path).code == "BLOB_UPLOAD_UNKNOWN"


def test_a_client_that_dies_goes_on_where_it_was(ours: Registry) -> None:
    path = ours.begin("resumed")
    with ours.connect() as connection:
        connection.sendall(f"PATCH {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(LAYER)}\r\n\r\n".encode() + LAYER[:3000])
    state = ours.call("GET", path)
    while state.headers["range"] != "0-2999":
        state = ours.call("GET", path)
    while (answer := ours.call("PATCH", path, LAYER[3000:], {"Content-Range": f"3000-{len(LAYER) - 1}"})).status == 429:
        assert answer.code == "TOOMANYREQUESTS"
    assert ours.call("PUT", f"{path}?digest={digest_of(LAYER)}").status == 201


@pytest.mark.parametrize("claimed", ["5-3", "x-y", "-", "0-99999999999999999999", "bytes=0-1,2-3", "0-4 5"])
def test_a_content_range_that_is_none_changes_nothing(ours: Registry, claimed: str) -> None:
    path = ours.begin("ranges")
    assert ours.call("PATCH", path, b"12345", {"Content-Range": claimed}).status == 416
    assert ours.call("GET", path).headers["range"] == "0-0"
    assert ours.call("PUT", f"{path}?digest={digest_of(b'')}").status == 201


def test_a_body_of_another_length_than_its_range_is_forgotten(ours: Registry) -> None:
    path = ours.begin("ranges")
    assert ours.call("PATCH", path, b"12345", {"Content-Range": "0-4"}).status == 202
    assert ours.call("PATCH", path, b"678", {"Content-Range": "5-9"}).code == "SIZE_INVALID"
    streamed = ours.call("PATCH", path, iter([b"6", b"7", b"8"]), {"Content-Range": "5-9"})
    assert (streamed.status, streamed.code) == (400, "SIZE_INVALID")
    assert ours.call("GET", path).headers["range"] == "0-4"
    assert ours.call("PUT", f"{path}?digest={digest_of(b'12345')}").status == 201


def test_an_upload_belongs_to_its_repository_and_can_be_given_up(ours: Registry) -> None:
    path = ours.begin("mine")
    other = path.replace("/v2/mine/", "/v2/theirs/")
    assert [ours.call(method, other, b"x").status for method in ("GET", "PATCH", "DELETE")] == [404, 404, 404]
    assert ours.call("DELETE", path).status == 204
    assert ours.call("DELETE", path).code == "BLOB_UPLOAD_UNKNOWN"


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_every_way_to_upload_ends_in_the_same_blob(ours: Registry, algorithm: str) -> None:
    for number, data in enumerate((b"", b"small", LAYER * 300)):
        name = f"ways/{algorithm}"
        wanted = digest_of(data, algorithm)
        location = f"/v2/{name}/blobs/{wanted}"
        answers = [ours.call("POST", f"/v2/{name}/blobs/uploads/?digest={wanted}", data)]
        answers.append(ours.call("PUT", f"{ours.begin(name)}?digest={wanted}", data))
        path = ours.begin(name)
        assert ours.call("PATCH", path, iter([data[:7], data[7:]])).status == 202
        answers.append(ours.call("PUT", f"{path}?digest={wanted}"))
        answers.append(ours.call("POST", f"/v2/{name}/{number}/blobs/uploads/?mount={wanted}&from={name}"))
        answers.append(ours.call("POST", f"/v2/{name}/{number}/more/blobs/uploads/?mount={wanted}"))
        assert [answer.status for answer in answers] == [201] * 5
        assert [answer.headers["location"] for answer in answers[:3]] == [location] * 3
        for answer in answers:
            found = ours.call("GET", answer.headers["location"])
            assert (found.status, found.body == data, found.headers["docker-content-digest"]) == (200, True, wanted)


def test_other_bytes_than_were_promised_leave_nothing(ours: Registry) -> None:
    wanted = digest_of(b"promised")
    path = ours.begin("liar")
    for answer in (
        ours.call("POST", f"/v2/liar/blobs/uploads/?digest={wanted}", b"sent"),
        ours.call("PUT", f"{path}?digest={wanted}", b"sent"),
    ):
        assert (answer.status, answer.code) == (400, "DIGEST_INVALID")
    assert ours.call("HEAD", f"/v2/liar/blobs/{wanted}").status == 404
    assert ours.call("HEAD", f"/v2/liar/blobs/{digest_of(b'sent')}").status == 404
    assert ours.call("GET", path).status == 404
    assert ours.call("PUT", ours.begin("liar"), b"x").code == "DIGEST_INVALID"  # none is named


def test_a_body_that_says_it_is_compressed_is_kept_as_it_came(ours: Registry) -> None:
    data = gzip.compress(LAYER)
    path = ours.begin("encoded")
    assert ours.call("PATCH", path, data, {"Content-Encoding": "gzip"}).status == 202
    assert ours.call("PUT", f"{path}?digest={digest_of(data)}").status == 201


def test_a_client_that_asks_whether_to_go_on_is_told_to(ours: Registry) -> None:
    path = ours.begin("asking")
    with ours.connect() as connection:
        connection.sendall(f"PATCH {path} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n".encode())
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"12345")
        assert connection.recv(1000).startswith(b"HTTP/1.1 202 ")


def test_a_manifest_waits_for_what_it_names(ours: Registry) -> None:
    config, layer = ours.blob("order", CONFIG), digest_of(LAYER)
    raw = manifest_of(config, layer, len(LAYER))
    ours.blob("elsewhere", LAYER)
    refused = ours.put("order", "1", raw)
    assert (refused.status, refused.code, refused.json["errors"][0]["detail"]) == (404, "MANIFEST_BLOB_UNKNOWN", {"digest": layer})
    entry = {"mediaType": OCI_MANIFEST, "digest": digest_of(raw), "size": len(raw)}
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}).encode()
    assert ours.put("order", "all", index).code == "MANIFEST_BLOB_UNKNOWN"
    assert ours.call("GET", "/v2/order/tags/list").status == 404
    ours.blob("order", LAYER)
    assert ours.put("order", digest_of(raw), raw).headers["location"] == f"/v2/order/manifests/{digest_of(raw)}"
    assert ours.put("order", "all", index).status == 201
    nested = json.dumps(
        {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [{**entry, "mediaType": OCI_INDEX, "digest": digest_of(index)}]}
    )
    assert ours.put("order", "nested", nested.encode()).status == 201


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_manifest_is_kept_to_the_byte(ours: Registry, algorithm: str) -> None:
    config = ours.blob("exact", CONFIG, digest_of(CONFIG, algorithm))
    layer = ours.blob("exact", LAYER, digest_of(LAYER, algorithm))
    odd = b"\n  " + manifest_of(config, layer, 1, zeta={"unknown": [1.50]}, annotations={"big": "x" * 3_900_000}) + b" \n"
    wanted = digest_of(odd, algorithm)
    answer = ours.put("exact", wanted, odd)
    assert (answer.status, answer.headers["docker-content-digest"]) == (201, wanted)
    found = ours.call("GET", answer.headers["location"])
    assert (found.body, found.headers["content-type"]) == (odd, OCI_MANIFEST)
    head = ours.call("HEAD", f"/v2/exact/manifests/{wanted}")
    assert (head.status, head.headers["content-length"], head.headers["etag"]) == (200, str(len(odd)), f'"{wanted}"')
    assert ours.put("exact", digest_of(odd + b" ", algorithm), odd).code == "DIGEST_INVALID"
    assert ours.put("exact", "sha256:baddigeststring", odd).code == "DIGEST_INVALID"


def test_a_deleted_tag_leaves_the_image_and_a_deleted_image_its_blobs(ours: Registry) -> None:
    digest, _ = ours.push("tagged", "1")
    ours.push("tagged", "2")
    assert ours.call("DELETE", "/v2/tagged/manifests/1").status == 202
    assert ours.call("GET", "/v2/tagged/manifests/1").code == "MANIFEST_UNKNOWN"
    assert ours.call("DELETE", "/v2/tagged/manifests/1").code == "MANIFEST_UNKNOWN"
    assert ours.call("GET", f"/v2/tagged/manifests/{digest}").status == 200
    assert ours.call("DELETE", f"/v2/tagged/manifests/{digest}").status == 202
    assert ours.call("GET", "/v2/tagged/manifests/2").status == 404
    assert ours.call("GET", "/v2/tagged/tags/list").code == "NAME_UNKNOWN"
    blob = f"/v2/tagged/blobs/{digest_of(b'layer')}"
    assert [ours.call(method, blob).status for method in ("HEAD", "DELETE", "HEAD", "DELETE")] == [200, 202, 404, 404]


def test_many_who_push_the_same_at_once_all_succeed(ours: Registry) -> None:
    answers: list[int] = []

    def push(number: int) -> None:
        raw = ours.manifest("crowd", LAYER)
        answers.append(ours.put("crowd", f"t{number}", raw).status)
        answers.append(ours.call("GET", f"/v2/crowd/blobs/{digest_of(LAYER)}").status)

    threads = [threading.Thread(target=push, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200] * 8 + [201] * 8
    assert len(ours.call("GET", "/v2/crowd/tags/list").json["tags"]) == 8
