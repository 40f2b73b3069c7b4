from __future__ import annotations

import json
from typing import Any

import pytest
from tests.registry.conftest import OCI_INDEX, OCI_MANIFEST, Registry, digest_of

from wherry.registry.pulls import accepted_types, accepts, page

LAYER = bytes(range(256)) * 20_000


def test_lists_come_in_pages_that_lead_on(ours: Registry) -> None:
    for tag in ("c", "a", "B", "d"):
        ours.push("paged/x", tag)
    found, path = [], "/v2/paged/x/tags/list?n=3"
    while path:
        answer = ours.call("GET", path)
        found.append(answer.json["tags"])
        path = answer.headers.get("link", "").partition(">")[0].removeprefix("<")
    assert found == [["B", "a", "c"], ["d"]]
    assert ours.call("GET", "/v2/paged/x/tags/list?n=0").json["tags"] == []
    assert ours.call("GET", "/v2/paged/x/tags/list?last=b").json["tags"] == ["c", "d"]
    assert ours.call("GET", f"/v2/paged/x/tags/list?n={2**63 - 1}").json["tags"] == ["B", "a", "c", "d"]
    assert ours.call("GET", "/v2/paged/x/tags/list?n=2&last=B").json == {"name": "paged/x", "tags": ["a", "c"]}
    for wrong in ("-1", "x", "", "99999999999999999999"):
        assert ours.call("GET", f"/v2/paged/x/tags/list?n={wrong}").status == 400
    ours.push("paged", "1")
    ours.push("paged-y", "1")
    assert ours.call("GET", "/v2/_catalog?n=3&last=page").json["repositories"] == ["paged", "paged-y", "paged/x"]
    assert ours.call("GET", "/v2/_catalog?n=1&last=page").headers["link"] == '</v2/_catalog?n=1&last=paged>; rel="next"'


def test_who_refers_to_an_image_is_listed_and_forgotten_with_it(ours: Registry) -> None:
    subject, raw = ours.push("refs", "1")
    described = {"mediaType": json.loads(raw)["mediaType"], "digest": subject, "size": len(raw)}
    assert ours.call("GET", f"/v2/refs/referrers/{digest_of(b'none')}").json["manifests"] == []
    manifest = ours.manifest("refs", b"signature", subject=described, artifactType="text/sig", annotations={"by": "me"})
    answer = ours.put("refs", digest_of(manifest), manifest)
    assert (answer.status, answer.headers["oci-subject"]) == (201, subject)
    found = ours.call("GET", f"/v2/refs/referrers/{subject}")
    assert found.headers["content-type"] == OCI_INDEX
    entry = {"mediaType": OCI_MANIFEST, "digest": digest_of(manifest), "size": len(manifest)}
    assert found.json == {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [{**entry, "artifactType": "text/sig", "annotations": {"by": "me"}}],
    }
    assert "oci-filters-applied" not in found.headers
    for wanted, count in (("text/sig", 1), ("text/other", 0)):
        filtered = ours.call("GET", f"/v2/refs/referrers/{subject}?artifactType={wanted}")
        assert (len(filtered.json["manifests"]), filtered.headers["oci-filters-applied"]) == (count, "artifactType")
    assert ours.call("DELETE", f"/v2/refs/manifests/{digest_of(manifest)}").status == 202
    assert ours.call("GET", f"/v2/refs/referrers/{subject}").json["manifests"] == []


def test_a_subject_may_come_later_or_never(ours: Registry) -> None:
    missing = {"mediaType": OCI_MANIFEST, "digest": digest_of(b"missing"), "size": 123}
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [], "subject": missing, "artifactType": "a/b"}).encode()
    answer = ours.put("refs", "early", index)
    assert (answer.status, answer.headers["oci-subject"]) == (201, missing["digest"])
    found = ours.call("GET", f"/v2/refs/referrers/{missing['digest']}").json["manifests"]
    assert found == [{"mediaType": OCI_INDEX, "digest": digest_of(index), "size": len(index), "artifactType": "a/b"}]


def test_parts_of_a_blob_are_those_parts(ours: Registry) -> None:
    digest = ours.blob("parts", LAYER)
    path = f"/v2/parts/blobs/{digest}"
    size = len(LAYER)
    for text, start, end in (
        ("bytes=0-0", 0, 1),
        ("bytes=5000000-5000009", 5_000_000, 5_000_010),
        ("bytes=5000000-", 5_000_000, size),
        ("bytes=-300", size - 300, size),
        (f"bytes=100-{size * 2}", 100, size),
    ):
        answer = ours.call("GET", path, headers={"Range": text})
        assert (answer.status, answer.body == LAYER[start:end]) == (206, True), text
        assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{size}"
        assert answer.headers["docker-content-digest"] == digest
    for text in ("lines=0-1", "bytes=0-1,3-4", "bytes=-", "x" * 200):
        answer = ours.call("GET", path, headers={"Range": text})
        assert (answer.status, answer.body == LAYER) == (200, True), text
    for text in ("bytes=9-5", f"bytes={size}-", "bytes=-0", "bytes=9999999999999999999-"):
        answer = ours.call("GET", path, headers={"Range": text})
        assert (answer.status, answer.headers["content-range"]) == (416, f"bytes */{size}"), text
    whole = ours.call("GET", path, headers={"Range": "bytes=0-1", "If-Range": '"other"'})
    assert (whole.status, len(whole.body)) == (200, size)
    assert ours.call("GET", path, headers={"If-None-Match": f'W/"x", "{digest}"'}).status == 304
    head = ours.call("HEAD", path)
    assert (head.status, head.headers["content-length"], head.headers["accept-ranges"], head.body) == (200, str(size), "bytes", b"")


def test_a_client_gets_what_it_can_read(ours: Registry) -> None:
    digest, raw = ours.push("old", "one", mediaType="application/vnd.docker.distribution.manifest.v2+json")
    entry: dict[str, Any] = {"mediaType": json.loads(raw)["mediaType"], "digest": digest, "size": len(raw)}
    entry["platform"] = {"os": "linux", "architecture": "amd64"}
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}).encode()
    assert ours.put("old", "all", index).status == 201
    for accept, body in (
        ("", index),
        ("*/*", index),
        (f"text/html, {OCI_INDEX};q=0.5", index),
        (str(entry["mediaType"]), raw),
        (f"{entry['mediaType']}, {OCI_INDEX}; q=0", raw),
    ):
        headers = {"Accept": accept} if accept else {}
        assert ours.call("GET", "/v2/old/manifests/all", headers=headers).body == body, accept
    for what, accept in (("one", OCI_INDEX), (digest_of(index), str(entry["mediaType"])), ("all", "text/html")):
        answer = ours.call("GET", f"/v2/old/manifests/{what}", headers={"Accept": accept})
        assert (answer.status, answer.code) == (404, "MANIFEST_UNKNOWN")
    assert ours.call("GET", "/v2/old/manifests/one", headers={"If-None-Match": f'"{digest}"'}).status == 304


@pytest.mark.parametrize(
    ("headers", "accepted"),
    [
        ([], []),
        (["a/b, C/D;q=0.3", "e/f"], ["a/b", "c/d", "e/f"]),
        (["a/b;q=0, c/d; q=0.0 ,e/f;q=0.01"], ["e/f"]),
        ([",,"], []),
    ],
)
def test_accept_headers_are_read_as_http_says(headers: list[str], accepted: list[str]) -> None:
    assert accepted_types(headers) == accepted


def test_no_accept_header_accepts_everything() -> None:
    assert accepts([], "a/b")
    assert accepts(["application/*"], "a/b")
    assert not accepts(["c/d"], "a/b")


def test_pages_follow_one_another() -> None:
    names = ["a", "b", "c"]
    assert page(names, 2, "") == (["a", "b"], True)
    assert page(names, 2, "b") == (["c"], False)
    assert page(names, None, "bb") == (["c"], False)
    assert page(names, 0, "") == ([], True)
