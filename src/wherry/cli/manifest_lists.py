"""Manifest lists in the making: files beside the client's configuration, in the form and place that Docker's command line has them.

``manifests/<list>/<manifest>`` holds one entry: which manifest, its descriptor with the platform, its bytes.
"""

from __future__ import annotations

import os
import shutil

from wherry.cli.flags import Failure
from wherry.cli.registry import DOCKER_LIST, OCI_INDEX, OCI_MANIFEST, digest_of
from wherry.client import jsontext

TYPE_CHECKING = False  # typing costs 8 ms to import
if TYPE_CHECKING:
    from typing import Any

    from wherry.spec.reference import Reference

_PLATFORM = ("architecture", "os", "os.version", "os.features", "variant")


class Entry:
    """One manifest of a list.  ``platform``: what of its fields is known."""

    __slots__ = ("media_type", "platform", "raw", "ref")

    def __init__(self, ref: str, media_type: str, raw: bytes, platform: dict[str, Any]) -> None:
        self.ref = ref
        self.media_type = media_type
        self.raw = raw
        self.platform = platform

    @property
    def digest(self) -> str:
        return digest_of(self.raw)

    def document(self) -> dict[str, Any]:
        """As ``manifest inspect -v`` shows it, and as it lies on disk."""
        import binascii

        kind = "OCIManifest" if self.media_type == OCI_MANIFEST else "SchemaV2Manifest"
        platform = {key: self.platform[key] for key in _PLATFORM if self.platform.get(key)}
        descriptor = {"mediaType": self.media_type, "digest": self.digest, "size": len(self.raw), "platform": platform}
        raw = binascii.b2a_base64(self.raw, newline=False).decode()
        return {"Ref": self.ref, "Descriptor": descriptor, "Raw": raw, kind: jsontext.parse(self.raw)}

    @classmethod
    def read(cls, text: bytes) -> Entry:
        """Raises ValueError."""
        import binascii

        try:
            document = jsontext.parse(text)
            descriptor = document["Descriptor"]
            raw = binascii.a2b_base64(document["Raw"])
            entry = cls(str(document["Ref"]), str(descriptor["mediaType"]), raw, dict(descriptor.get("platform") or {}))
        except (KeyError, TypeError, AttributeError, binascii.Error) as error:
            raise ValueError(f"not a manifest: {error}") from error
        if entry.digest != descriptor.get("digest"):
            raise ValueError("its bytes are not those of its digest")
        return entry


class ManifestLists:
    """All lists of one configuration directory."""

    def __init__(self, config_dir: str) -> None:
        self._root = os.path.join(config_dir, "manifests")

    def entries(self, target: Reference) -> list[Entry]:
        """The manifests of a list in order of name; none when there is no such list.  Raises Failure for a damaged one."""
        folder = self._folder(target)
        try:
            names = sorted(os.listdir(folder))
        except FileNotFoundError:
            return []
        return [self._read(os.path.join(folder, name)) for name in names if not name.startswith(".tmp-")]

    def entry(self, target: Reference, manifest: Reference) -> Entry | None:
        path = os.path.join(self._folder(target), _file_name(manifest))
        return self._read(path) if os.path.exists(path) else None

    def put(self, target: Reference, manifest: Reference, entry: Entry) -> None:
        folder = self._folder(target)
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, _file_name(manifest))
        temporary = os.path.join(folder, f".tmp-{os.getpid()}")
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(jsontext.dump(entry.document()))
        os.rename(temporary, path)

    def remove(self, target: Reference) -> bool:
        """Whether there was one."""
        folder = self._folder(target)
        if not os.path.isdir(folder):
            return False
        shutil.rmtree(folder)
        return True

    def _folder(self, target: Reference) -> str:
        return os.path.join(self._root, _file_name(target))

    def _read(self, path: str) -> Entry:
        try:
            with open(path, "rb") as file:
                return Entry.read(file.read())
        except ValueError as error:
            raise Failure(f"{path}: {error}") from None


def list_document(entries: list[Entry]) -> tuple[str, bytes]:
    """Media type and bytes of the list of ``entries``: an OCI index where the first is an OCI manifest."""
    media_type = OCI_INDEX if entries[0].media_type == OCI_MANIFEST else DOCKER_LIST
    described = []
    for entry in entries:
        platform = {key: entry.platform[key] for key in _PLATFORM if entry.platform.get(key)}
        described.append({"mediaType": entry.media_type, "size": len(entry.raw), "digest": entry.digest, "platform": platform})
    document = {"schemaVersion": 2, "mediaType": media_type, "manifests": described}
    return media_type, jsontext.pretty(document, "   ").encode()


def _file_name(reference: Reference) -> str:
    return str(reference).replace(":", "-").replace("/", "_")
