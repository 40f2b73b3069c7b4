from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.registry.conftest import OCI_MANIFEST, digest_of

from wherry.registry import documents
from wherry.registry.garbage import collect
from wherry.registry.gate import Gate
from wherry.registry.holdings import Holdings, UnknownBlob, blob_key, link_key, manifest_key
from wherry.registry.naming import AnyDigest
from wherry.registry.objects import Directory

NAMES = st.sampled_from(["a", "a/b", "c-d"])
DATA = st.sampled_from([b"0", b"1", b"2", b"3"])
TAGS = st.sampled_from(["x", "y"])


def _digest(data: bytes) -> AnyDigest:
    return AnyDigest(digest_of(data))


def _manifest(layer: bytes, subject: AnyDigest | None = None) -> bytes:
    def entry(digest: str) -> dict[str, object]:
        return {"mediaType": "application/x", "digest": digest, "size": 1}

    fields = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": entry(_digest(layer)), "layers": [entry(_digest(layer))]}
    return json.dumps({**fields, **({"subject": entry(subject)} if subject else {})}).encode()


class Life(RuleBasedStateMachine):
    """Whatever is done in whatever order, the holdings are what a few dictionaries say they should be."""

    def __init__(self) -> None:
        super().__init__()
        self._place = tempfile.TemporaryDirectory()
        root = self._place.name
        self.gate = Gate(f"{root}/gate")
        self.holdings = Holdings(Directory(f"{root}/objects", f"{root}/staging"), self.gate)
        self.blobs: set[tuple[str, bytes]] = set()
        self.manifests: dict[str, dict[AnyDigest, tuple[bytes, AnyDigest | None]]] = {}
        self.tags: dict[str, dict[str, AnyDigest]] = {}

    def teardown(self) -> None:
        self._place.cleanup()

    @rule(name=NAMES, data=DATA)
    def push_blob(self, name: str, data: bytes) -> None:
        path = Path(self._place.name, "upload")
        path.write_bytes(data)
        self.holdings.add_blob(name, _digest(data), str(path))
        self.blobs.add((name, data))

    @rule(name=NAMES, data=DATA, source=st.one_of(st.just(""), NAMES))
    def mount_blob(self, name: str, data: bytes, source: str) -> None:
        held = (source, data) in self.blobs if source else any(data == other for _, other in self.blobs)
        assert self.holdings.mount_blob(name, _digest(data), source) is held
        if held:
            self.blobs.add((name, data))

    @rule(name=NAMES, data=DATA)
    def delete_blob(self, name: str, data: bytes) -> None:
        if (name, data) in self.blobs:
            self.holdings.remove_blob(name, _digest(data))
            self.blobs.remove((name, data))
        else:
            with pytest.raises(FileNotFoundError):
                self.holdings.remove_blob(name, _digest(data))

    @rule(name=NAMES, data=DATA, tag=st.one_of(st.none(), TAGS), subject=st.one_of(st.none(), DATA))
    def push_manifest(self, name: str, data: bytes, tag: str | None, subject: bytes | None) -> None:
        about = _digest(_manifest(subject)) if subject else None
        raw = _manifest(data, about)
        digest = _digest(raw)
        if (name, data) not in self.blobs:
            with pytest.raises(UnknownBlob):
                self.holdings.put_manifest(name, tag or digest, raw, documents.read(raw))
            return
        assert self.holdings.put_manifest(name, tag or digest, raw, documents.read(raw)) == digest
        self.manifests.setdefault(name, {})[digest] = raw, about
        if tag:
            self.tags.setdefault(name, {})[tag] = digest

    @rule(name=NAMES, data=DATA)
    def delete_manifest(self, name: str, data: bytes) -> None:
        digest = _digest(_manifest(data))
        if digest not in self.manifests.get(name, {}):
            with pytest.raises(FileNotFoundError):
                self.holdings.remove_manifest(name, digest)
            return
        self.holdings.remove_manifest(name, digest)
        del self.manifests[name][digest]
        self.tags[name] = {tag: other for tag, other in self.tags.get(name, {}).items() if other != digest}

    @rule(name=NAMES, tag=TAGS)
    def delete_tag(self, name: str, tag: str) -> None:
        if tag in self.tags.get(name, {}):
            self.holdings.remove_manifest(name, tag)
            del self.tags[name][tag]
        else:
            with pytest.raises(FileNotFoundError):
                self.holdings.remove_manifest(name, tag)

    @rule()
    def collect(self) -> None:
        collect(self.holdings, self.gate, young_s=-1)
        named = {(name, data) for name, held in self.manifests.items() for raw, _ in held.values() for data in _data_of(raw)}
        self.blobs &= named

    @invariant()
    def holds_what_it_should(self) -> None:
        for name in ("a", "a/b", "c-d"):
            held = self.manifests.get(name, {})
            assert set(self.holdings.manifests(name)) == set(held)
            assert {tag: self.holdings.resolve(name, tag) for tag in self.holdings.tags(name)} == self.tags.get(name, {})
            assert all(self.holdings.manifest(name, digest).raw == raw for digest, (raw, _) in held.items())
            assert {data for data in (b"0", b"1", b"2", b"3") if self.holdings.has_blob(name, _digest(data))} == {
                data for other, data in self.blobs if other == name
            }
            for data in (b"0", b"1"):
                subject = _digest(_manifest(data))
                found = {item["digest"] for item in self.holdings.referrers(name, subject)}
                assert found == {digest for digest, (_, about) in held.items() if about == subject}
        assert self.holdings.repositories() == sorted(name for name, held in self.manifests.items() if held)
        stored = sum(len(self.holdings.objects.children(f"blobs/{group}")) for group in self.holdings.objects.children("blobs"))
        assert stored == len({data for _, data in self.blobs})


def _data_of(raw: bytes) -> list[bytes]:
    wanted = json.loads(raw)["config"]["digest"]
    return [data for data in (b"0", b"1", b"2", b"3") if digest_of(data) == wanted]


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=12, stateful_step_count=25, deadline=None)


@pytest.fixture
def holdings(tmp_path: Path) -> Holdings:
    return Holdings(Directory(str(tmp_path / "objects"), str(tmp_path / "staging")), Gate(str(tmp_path / "gate")))


def test_what_a_killed_server_left_between_two_writes_is_not_seen(holdings: Holdings) -> None:
    blob, subject = _digest(b"0"), _digest(b"subject")
    holdings.objects.write(blob_key(blob), b"0")  # and no link
    assert not holdings.has_blob("a", blob)
    assert not holdings.mount_blob("a", blob)
    holdings.objects.write(link_key(blob, "a"), b"")
    raw = _manifest(b"0", subject)
    holdings.objects.write(f"referrers/a/{subject.word}/{_digest(raw).word}", b"{}")  # and no manifest
    assert holdings.referrers("a", subject) == []
    holdings.put_manifest("a", _digest(raw), raw, documents.read(raw))  # and no tag
    assert holdings.tags("a") == []
    assert [item["digest"] for item in holdings.referrers("a", subject)] == [digest_of(raw)]
    holdings.objects.delete(manifest_key("a", _digest(raw)))  # deleted as far as this
    assert holdings.referrers("a", subject) == []


def test_what_others_hold_outlives_a_delete(holdings: Holdings, tmp_path: Path) -> None:
    digest = _digest(b"0")
    (tmp_path / "upload").write_bytes(b"0")
    holdings.add_blob("a", digest, str(tmp_path / "upload"))
    assert holdings.mount_blob("b", digest, "a")
    holdings.remove_blob("a", digest)
    assert holdings.blob_size("b", digest) == 1
    first, second = _manifest(b"0"), _manifest(b"0", digest)
    for tag, raw in (("1", first), ("2", first), ("3", second)):
        holdings.put_manifest("b", tag, raw, documents.read(raw))
    holdings.remove_manifest("b", _digest(first))
    assert holdings.tags("b") == ["3"]


class _Killed(BaseException):
    pass


class _Dying(Directory):
    """A directory whose process is killed before its change number ``left`` + 1."""

    left = 1 << 30

    def _count(self) -> None:
        if not self.left:
            raise _Killed
        self.left -= 1

    def write(self, key: str, data: bytes) -> None:
        self._count()
        super().write(key, data)

    def adopt(self, key: str, path: str) -> None:
        self._count()
        super().adopt(key, path)

    def delete(self, key: str) -> None:
        self._count()
        super().delete(key)


def _life(holdings: Holdings, gate: Gate, place: Path) -> None:
    for name, data in (("a", b"0"), ("a", b"1"), ("b", b"0")):
        (place / "upload").write_bytes(data)
        holdings.add_blob(name, _digest(data), str(place / "upload"))
    about = _digest(_manifest(b"0"))
    for tag, raw in (("1", _manifest(b"0")), ("2", _manifest(b"0")), ("3", _manifest(b"1", about))):
        holdings.put_manifest("a", tag, raw, documents.read(raw))
    holdings.mount_blob("b", _digest(b"1"), "a")
    holdings.put_manifest("b", "1", _manifest(b"1"), documents.read(_manifest(b"1")))
    holdings.remove_manifest("a", _digest(_manifest(b"1", about)))
    holdings.remove_manifest("a", "1")
    holdings.remove_blob("b", _digest(b"0"))
    holdings.put_manifest("b", "1", _manifest(b"1", about), documents.read(_manifest(b"1", about)))
    collect(holdings, gate, young_s=-1, untagged=True)
    holdings.remove_manifest("a", about)
    collect(holdings, gate, young_s=-1)


def test_killed_before_any_change_all_that_is_seen_is_whole(tmp_path: Path) -> None:
    for left in range(1000):
        place = tmp_path / str(left)
        place.mkdir()
        objects = _Dying(str(place / "objects"), str(place / "staging"))
        objects.left = left
        gate = Gate(str(place / "gate"))
        holdings = Holdings(objects, gate)
        try:
            _life(holdings, gate, place)
        except _Killed:
            objects.left = 1 << 30
        else:
            break
        for _ in range(2):
            for name in holdings.repositories():
                for digest in holdings.manifests(name):
                    stored = holdings.manifest(name, digest)
                    assert _digest(stored.raw) == digest
                    assert all(holdings.blob_size(name, blob) == 1 for blob in documents.read(stored.raw).blobs), left
                for tag in holdings.tags(name):
                    assert holdings.manifest(name, tag)
                for listed in holdings.referrers(name, _digest(_manifest(b"0"))):
                    assert holdings.manifest(name, AnyDigest(str(listed["digest"])))
            for word in objects.children("links"):
                assert objects.exists(blob_key(AnyDigest.of_word(word))), left
            collect(holdings, gate, young_s=-1, untagged=True)  # and the next server's collector keeps it so
    assert left > 20
