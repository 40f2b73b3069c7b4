"""What OCI's conformance suite asks of a registry: its four workflows, each assertion, on any storage.

Source: distribution-spec, conformance/: 01_pull to 04_management of 1.1, and the tables of run.go and api.go that follow them.
"""

from __future__ import annotations

import gzip
import json
import os
from typing import Any

from tests.registry.conftest import OCI_INDEX, OCI_MANIFEST, Answer, Registry, digest_of

REPOSITORY, OTHER = "conformance/repo1", "conformance/repo2"
BINARY = "application/octet-stream"
EMPTY_JSON = "application/vnd.oci.empty.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
EXAMPLE = "application/vnd.example.config.v1+json"
CHUNK = 1024
CODES = {
    "BLOB_UNKNOWN", "BLOB_UPLOAD_INVALID", "BLOB_UPLOAD_UNKNOWN", "DIGEST_INVALID", "MANIFEST_BLOB_UNKNOWN", "MANIFEST_INVALID",
    "MANIFEST_UNKNOWN", "NAME_INVALID", "NAME_UNKNOWN", "SIZE_INVALID", "UNAUTHORIZED", "DENIED", "UNSUPPORTED", "TOOMANYREQUESTS",
}  # fmt: skip


def expect(answer: Answer, status: int, body: bytes | None = None, **headers: str) -> Answer:
    assert answer.status == status, (answer.status, answer.body[:300])
    if body is not None:
        assert answer.body == body
    for name, value in headers.items():
        assert answer.headers.get(name.replace("_", "-")) == value
    if status == 400:
        assert answer.code in CODES
    return answer


class Conformance:
    """``algorithm``: of the digests of everything that is made."""

    def __init__(self, registry: Registry, algorithm: str = "sha256") -> None:
        self.registry = registry
        self.algorithm = algorithm
        self.manifests: list[str] = []
        self.blobs: set[str] = set()

    def digest(self, data: bytes) -> str:
        return digest_of(data, self.algorithm)

    def call(self, method: str, path: str, body: bytes | None = None, kind: str = BINARY, **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.registry.call(method, path, body, {"Content-Type": kind, **named} if body is not None else named)

    # -- blobs

    def begin(self, query: str = "") -> Answer:
        return self.call("POST", f"/v2/{REPOSITORY}/blobs/uploads/{query}", b"")

    @staticmethod
    def location(answer: Answer, **query: str) -> str:
        location = answer.headers["location"]
        path = location[location.index("/v2/") :]
        return path + "".join(("&" if "?" in path else "?") + f"{name}={value}" for name, value in query.items())

    def pushed(self, answer: Answer, data: bytes, digest: str) -> None:
        """The answer that ends an upload."""
        expect(answer, 201, docker_content_digest=digest)
        expect(self.call("GET", self.location(answer)), 200, data)
        blob = f"/v2/{REPOSITORY}/blobs/{digest}"
        expect(self.call("HEAD", blob), 200, b"", content_length=str(len(data)), docker_content_digest=digest)
        expect(self.call("GET", blob), 200, data, content_length=str(len(data)), docker_content_digest=digest)

    def deleted(self, digest: str, name: str = REPOSITORY) -> None:
        expect(self.call("DELETE", f"/v2/{name}/blobs/{digest}"), 202)
        expect(self.call("HEAD", f"/v2/{name}/blobs/{digest}"), 404)

    def blob_ways(self) -> None:
        """Every way to push a blob, with the right digest and a wrong one; ranges, mounts, an upload that is given up."""
        for wrong in (False, True):
            for way in (self.posted, self.posted_and_put, self.streamed, self.chunked, self.chunked_to_the_put, self.out_of_order):
                data = os.urandom(CHUNK * 3 - 5)
                digest = self.digest(data)
                answer = way(data + b"oh no" if wrong else data, digest)
                if wrong:
                    expect(answer, 400)
                    expect(self.call("HEAD", f"/v2/{REPOSITORY}/blobs/{digest}"), 404)
                else:
                    self.pushed(answer, data, digest)
                    self.deleted(digest)
        for data in (b"", b"{}"):
            self.pushed(self.posted_and_put(data, self.digest(data)), data, self.digest(data))
            self.deleted(self.digest(data))
        upload = self.location(expect(self.begin(), 202))
        expect(self.call("DELETE", upload), 204)
        expect(self.call("GET", upload), 404)
        self.mounts()
        self.ranges()

    def posted(self, data: bytes, digest: str) -> Answer:
        return self.call("POST", f"/v2/{REPOSITORY}/blobs/uploads/?digest={digest}", data)

    def posted_and_put(self, data: bytes, digest: str) -> Answer:
        return self.call("PUT", self.location(expect(self.begin(), 202), digest=digest), data)

    def streamed(self, data: bytes, digest: str) -> Answer:
        answer = expect(self.call("PATCH", self.location(expect(self.begin(), 202)), data), 202)
        return self.call("PUT", self.location(answer, digest=digest), b"")

    def chunked(self, data: bytes, digest: str, *, to_the_put: bool = False, out_of_order: bool = False) -> Answer:
        answer = expect(self.begin(), 202)
        for start in range(0, len(data), CHUNK):
            chunk = data[start : start + CHUNK]
            is_last = to_the_put and start + CHUNK >= len(data)
            method, query = ("PUT", {"digest": digest}) if is_last else ("PATCH", {})
            if out_of_order:
                ahead = start + CHUNK if start + CHUNK < len(data) else 0
                where = f"{ahead}-{ahead + len(data[ahead : ahead + CHUNK]) - 1}"
                path = self.location(answer, **query)
                expect(self.call(method, path, data[ahead : ahead + CHUNK], Content_Range=where), 416)
                answer = expect(self.call("GET", path.partition("?")[0]), 204)
                assert answer.headers["range"] == f"0-{max(0, start - 1)}"
            answer = self.call(method, self.location(answer, **query), chunk, Content_Range=f"{start}-{start + len(chunk) - 1}")
            if is_last:
                return answer
            expect(answer, 202)
        return self.call("PUT", self.location(answer, digest=digest), b"")

    def chunked_to_the_put(self, data: bytes, digest: str) -> Answer:
        return self.chunked(data, digest, to_the_put=True)

    def out_of_order(self, data: bytes, digest: str) -> Answer:
        return self.chunked(data, digest, to_the_put=True, out_of_order=True)

    def mounts(self) -> None:
        data = os.urandom(512)
        digest = self.digest(data)
        answer = self.begin(f"?mount={digest}&from={OTHER}")
        expect(answer, 202)  # nobody has it
        expect(self.call("PUT", self.location(answer, digest=digest), data), 201)
        self.deleted(digest)
        answer = expect(self.call("POST", f"/v2/{OTHER}/blobs/uploads/?digest={digest}", data), 201)
        for query in (f"?mount={digest}&from={OTHER}", f"?mount={digest}"):
            self.pushed(self.begin(query), data, digest)
            self.deleted(digest)
        expect(self.call("GET", f"/v2/{OTHER}/blobs/{digest}"), 200, data)
        self.deleted(digest, OTHER)

    def ranges(self) -> None:
        data = os.urandom(2048)
        digest = self.digest(data)
        expect(self.posted(data, digest), 201)
        blob = f"/v2/{REPOSITORY}/blobs/{digest}"
        for asked, start, end in (("500-1499", 500, 1500), ("500-", 500, 2048), ("-500", 1548, 2048), ("2000-5000", 2000, 2048)):
            answer = self.call("GET", blob, Range=f"bytes={asked}")
            expect(answer, 206, data[start:end], content_length=str(end - start), content_range=f"bytes {start}-{end - 1}/2048")
        for asked in ("500-0", "5000-10000"):
            expect(self.call("GET", blob, Range=f"bytes={asked}"), 416)
        self.deleted(digest)

    # -- manifests

    def blob(self, data: bytes, kind: str) -> dict[str, Any]:
        digest = self.digest(data)
        if digest not in self.blobs:
            self.pushed(self.posted_and_put(data, digest), data, digest)
            self.blobs.add(digest)
        return {"mediaType": kind, "digest": digest, "size": len(data)}

    def manifest(self, tag: str = "", *, layers: list[dict[str, Any]] | None = None, config: bytes | None = None, **more: Any) -> Any:
        kind = EMPTY_JSON if config == b"{}" else "application/vnd.oci.image.config.v1+json"
        described = self.blob(config if config is not None else json.dumps({"architecture": os.urandom(4).hex()}).encode(), kind)
        layers = [self.blob(gzip.compress(os.urandom(64)), LAYER + "+gzip")] if layers is None else layers
        return self.put({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described, "layers": layers, **more}, tag)

    def index(self, tag: str, entries: list[dict[str, Any]], **more: Any) -> Any:
        return self.put({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries, **more}, tag)

    def put(self, document: dict[str, Any], tag: str) -> dict[str, Any]:
        """By digest and by tag; its descriptor."""
        raw = json.dumps(document).encode()
        digest, kind = self.digest(raw), document["mediaType"]
        subject = document.get("subject", {}).get("digest")
        accept = f"{OCI_INDEX}, {OCI_MANIFEST}"
        for what in filter(None, (digest, tag if self.algorithm == "sha256" else "")):
            answer = expect(self.call("PUT", f"/v2/{REPOSITORY}/manifests/{what}", raw, kind), 201)
            assert answer.headers["docker-content-digest"] == digest
            assert answer.headers.get("oci-subject") == subject
            expect(self.call("GET", self.location(answer), Accept=accept), 200, raw, content_type=kind, content_length=str(len(raw)))
            for method, body in (("HEAD", b""), ("GET", raw)):
                answer = self.call(method, f"/v2/{REPOSITORY}/manifests/{what}", Accept=accept)
                expect(answer, 200, body, content_type=kind, content_length=str(len(raw)), docker_content_digest=digest)
        self.manifests.append(digest)
        return {"mediaType": kind, "digest": digest, "size": len(raw)}

    def kinds(self) -> None:
        """Manifests of every kind that the suite knows."""
        missing = digest_of(b"missing content")
        self.manifest("image")
        self.manifest("uncompressed", layers=[self.blob(os.urandom(64), LAYER)])
        self.manifest("large", annotations={f"large-annotation-{number}": "A" * 10000 for number in range(390)})
        self.manifest("no-layers", layers=[])
        self.manifest("custom", **{"org.example." + os.urandom(4).hex(): {"any": ["thing", 1]}})
        self.manifest("data", layers=[{**self.blob(b"hello", LAYER), "data": "aGVsbG8="}])
        elsewhere = {"mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "digest": missing, "size": 123456}
        self.manifest("elsewhere", layers=[{**elsewhere, "urls": ["https://store.example.com/x"]}, self.blob(os.urandom(9), LAYER)])
        platforms = [{"os": "linux", "architecture": name} for name in ("amd64", "arm64")]
        pair = [{**self.manifest(), "platform": platform} for platform in platforms]
        index = self.index("index", pair)
        self.index("nested", [index, self.index("", pair[:1])])
        self.index("empty", [])
        artifact = {"artifactType": EXAMPLE, "config": b"{}"}
        self.manifest("artifact", **artifact, layers=[self.blob(os.urandom(64), EXAMPLE)])
        self.manifest("without-layers", **artifact, layers=[self.blob(b"{}", EMPTY_JSON)])
        self.index("artifact-index", [self.manifest(**artifact, layers=[self.blob(b"{}", EMPTY_JSON)])], artifactType=EXAMPLE)

    def referrers(self) -> None:
        nobody = expect(self.call("GET", f"/v2/{REPOSITORY}/referrers/{self.digest(os.urandom(8))}"), 200, content_type=OCI_INDEX).json
        assert (nobody["mediaType"], nobody["schemaVersion"], nobody["manifests"]) == (OCI_INDEX, 2, [])
        for subject in (self.manifest("subject"), self.index("subject-index", []), {"digest": self.digest(b"none"), "size": 123}):
            subject = {"mediaType": OCI_MANIFEST, **subject}
            notes = {"org.opencontainers.conformance": os.urandom(4).hex()}
            wanted = {
                "application/vnd.oci.image.config.v1+json": [self.manifest(subject=subject, annotations=notes)],
                EXAMPLE: [
                    self.manifest(subject=subject, annotations=notes, artifactType=EXAMPLE, config=b"{}"),
                    self.index("tagged", [], subject=subject, annotations=notes, artifactType=EXAMPLE),
                ],
            }
            for kind, made in wanted.items():
                made[:] = [{**item, "artifactType": kind, "annotations": notes} for item in made]
            path = f"/v2/{REPOSITORY}/referrers/{subject['digest']}"
            found = expect(self.call("GET", path), 200, content_type=OCI_INDEX).json["manifests"]
            assert sorted(found, key=str) == sorted([item for made in wanted.values() for item in made], key=str)
            answer = expect(self.call("GET", f"{path}?artifactType={EXAMPLE.replace('+', '%2B')}"), 200, oci_filters_applied="artifactType")
            assert sorted(answer.json["manifests"], key=str) == sorted(wanted[EXAMPLE], key=str)

    # -- lists, mistakes, the end

    def tags(self) -> None:
        path = f"/v2/{REPOSITORY}/tags/list"
        tags = expect(self.call("GET", path), 200).json["tags"]
        assert tags == sorted(tags)
        half = len(tags) // 2
        first = expect(self.call("GET", f"{path}?n={half}"), 200)
        assert first.json["tags"] == tags[:half]
        assert first.headers["link"].endswith('>; rel="next"')
        assert expect(self.call("GET", f"{path}?last={tags[half - 1]}"), 200).json["tags"] == tags[half:]
        assert expect(self.call("GET", f"{path}?n=2&last={tags[half - 1]}"), 200).json["tags"] == tags[half : half + 2]
        assert expect(self.call("GET", f"{path}?n=0"), 200).json["tags"] == []

    def mistakes(self) -> None:
        for method in ("GET", "HEAD"):
            for what in (f"manifests/{self.digest(os.urandom(9))}", "manifests/.INVALID", "manifests/missing", "blobs/" + digest_of(b"")):
                answer = self.call(method, f"/v2/{REPOSITORY}/{what}")
                assert answer.status in ((400, 404) if "INVALID" in what else (404,)), what
        raw = json.dumps({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": self.blob(b"{}", EMPTY_JSON), "layers": []}).encode()
        for what, body in (("sha256:baddigeststring", raw), (digest_of(raw), raw + b"  "), ("tag", b"blablabla")):
            expect(self.call("PUT", f"/v2/{REPOSITORY}/manifests/{what}", body, OCI_MANIFEST), 400)
        assert self.call("GET", f"/v2/{REPOSITORY}/manifests/sha256:baddigeststring").status in (400, 404)

    def management(self) -> None:
        tags = self.call("GET", f"/v2/{REPOSITORY}/tags/list").json["tags"] if self.algorithm == "sha256" else []
        for tag in tags[:3]:
            expect(self.call("DELETE", f"/v2/{REPOSITORY}/manifests/{tag}"), 202)
            expect(self.call("HEAD", f"/v2/{REPOSITORY}/manifests/{tag}"), 404)
        for digest in reversed(self.manifests):
            assert self.call("DELETE", f"/v2/{REPOSITORY}/manifests/{digest}").status in (202, 404)
            expect(self.call("GET", f"/v2/{REPOSITORY}/manifests/{digest}"), 404)
        for digest in self.blobs:
            self.deleted(digest)
        answer = self.call("GET", f"/v2/{REPOSITORY}/tags/list")
        assert answer.status == 404 or answer.json["tags"] == []


def check(registry: Registry, algorithm: str = "sha256") -> None:
    """The whole suite.  Tags lead to manifests by sha256 only."""
    expect(registry.call("GET", "/v2/"), 200)
    suite = Conformance(registry, algorithm)
    suite.blob_ways()
    suite.kinds()
    suite.referrers()
    if algorithm == "sha256":
        suite.tags()
    suite.mistakes()
    suite.management()


def check_storage(registry: Registry) -> None:
    """As much of it as another storage may answer differently: uploads always lie in a directory."""
    suite = Conformance(registry)
    suite.mounts()
    suite.ranges()
    suite.referrers()
    suite.tags()
    suite.management()
