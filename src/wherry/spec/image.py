"""Manifests, indexes and image configs, as OCI and Docker write them.

Bytes that a digest covers are kept by the caller as they came; these types are a reading of them. Unknown fields are ignored on read.
What two readers could take differently (a key twice, a key in two spellings of case, a document that is both manifest and index) is
refused.  Source: OCI image-spec 1.1; Docker image manifest v2 schema 2; moby/docker-image-spec 1.3.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeVar

import msgspec

from wherry.spec import foreign
from wherry.spec.digest import Digest

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD: Final = "application/vnd.oci.image.layer.v1.tar+zstd"
OCI_EMPTY: Final = "application/vnd.oci.empty.v1+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_LAYER_ZSTD: Final = "application/vnd.docker.image.rootfs.diff.tar.zstd"
DOCKER_FOREIGN_GZIP: Final = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
DOCKER_SCHEMA1: Final = frozenset(
    {"application/vnd.docker.distribution.manifest.v1+json", "application/vnd.docker.distribution.manifest.v1+prettyjws"}
)

MANIFESTS: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEXES: Final = frozenset({OCI_INDEX, DOCKER_INDEX})
COMPRESSION: Final[dict[str, str]] = {
    OCI_LAYER: "",
    OCI_LAYER_GZIP: "gzip",
    OCI_LAYER_ZSTD: "zstd",
    DOCKER_LAYER: "",
    DOCKER_LAYER_GZIP: "gzip",
    DOCKER_LAYER_ZSTD: "zstd",
}
"""Layer media type -> how it is compressed; one that is absent here is not a layer Wherry can unpack."""

MANIFEST_LIMIT: Final = 4 << 20
CONFIG_LIMIT: Final = 8 << 20
LAYER_LIMIT: Final = 500
"""Layers in one image: far beyond what any engine can mount, far below what costs memory."""

Size = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Nanoseconds = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class InvalidDocument(ValueError):
    """Bytes that are not the manifest, index or config they should be; the message says why."""


class Schema1(InvalidDocument):
    """A manifest of Docker's first schema."""


class Platform(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an image runs on."""

    architecture: str
    os: str
    os_version: str = msgspec.field(name="os.version", default="")
    os_features: list[str] | None = msgspec.field(name="os.features", default=None)
    variant: str = ""


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """One blob: what it is, its digest and its exact length."""

    media_type: str
    digest: Digest
    size: Size
    urls: list[str] | None = None
    annotations: dict[str, str] | None = None
    platform: Platform | None = None
    artifact_type: str = ""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """An image: its config and its layers, base first."""

    schema_version: int
    config: Descriptor
    layers: list[Descriptor]
    media_type: str = ""
    artifact_type: str = ""
    subject: Descriptor | None = None
    annotations: dict[str, str] | None = None


class Index(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """A list of manifests, usually one for each platform."""

    schema_version: int
    manifests: list[Descriptor]
    media_type: str = ""
    artifact_type: str = ""
    subject: Descriptor | None = None
    annotations: dict[str, str] | None = None


class Healthcheck(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="pascal"):
    """How to tell that a container works; durations in nanoseconds, 0 inherits."""

    test: list[str] | None = None
    interval: Nanoseconds = 0
    timeout: Nanoseconds = 0
    start_period: Nanoseconds = 0
    start_interval: Nanoseconds = 0
    retries: int = 0


class Config(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="pascal"):
    """What a container of the image runs with: the ``config`` object."""

    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: dict[str, dict[str, Any]] | None = None
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: list[str] | None = None
    cmd: list[str] | None = None
    healthcheck: Healthcheck | None = None
    args_escaped: bool = False
    image: str = ""
    volumes: dict[str, dict[str, Any]] | None = None
    working_dir: str = ""
    entrypoint: list[str] | None = None
    network_disabled: bool = False
    mac_address: str = ""
    on_build: list[str] | None = None
    labels: dict[str, str] | None = None
    stop_signal: str = ""
    stop_timeout: int | None = None
    shell: list[str] | None = None


class RootFS(msgspec.Struct, frozen=True, kw_only=True):
    """The layers by their unpacked digests, base first."""

    diff_ids: list[Digest]
    type: str = "layers"


class History(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How one layer (or, with ``empty_layer``, one setting) came about."""

    created: str | None = None
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class ImageConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The image config; the digest of its bytes is the image's id.  Times are kept as the text they were."""

    rootfs: RootFS
    architecture: str = ""  # some tools say neither this nor the system
    os: str = ""
    config: Config | None = None
    created: str | None = None
    author: str = ""
    history: list[History] | None = None
    variant: str = ""
    os_version: str = msgspec.field(name="os.version", default="")
    os_features: list[str] | None = msgspec.field(name="os.features", default=None)
    id: str = ""
    parent: str = ""
    comment: str = ""
    container: str = ""
    container_config: Config | None = None
    docker_version: str = ""

    @property
    def settings(self) -> Config:
        """``config``, or an empty one."""
        return self.config or Config()

    @property
    def platform(self) -> Platform:
        return Platform(
            architecture=self.architecture,
            os=self.os or "linux",
            variant=self.variant,
            os_version=self.os_version,
            os_features=self.os_features,
        )


Document = TypeVar("Document", Manifest, Index, ImageConfig)


def decode(raw: bytes, content_type: str = "") -> Manifest | Index:
    """Read a manifest or an index, told apart by ``content_type``, its own ``mediaType`` and its fields, which must all agree.

    Raises InvalidDocument.
    """
    fields = _object(raw, MANIFEST_LIMIT, "manifest")
    kind = _media_type(fields, content_type.partition(";")[0].strip().lower())
    if kind in DOCKER_SCHEMA1 or (not kind and fields.get("schemaVersion") == 1):
        raise Schema1("image manifest schema 1 is not supported: push the image again with a current tool")
    if kind and kind not in MANIFESTS | INDEXES:
        raise InvalidDocument(f"not an image manifest or index: {kind!r}")
    if "manifests" in fields and ("layers" in fields or "config" in fields):
        raise InvalidDocument("ambiguous manifest: it has both 'manifests' and 'layers' or 'config'")
    document: Manifest | Index
    if kind in INDEXES or (not kind and "manifests" in fields):
        document = _typed(fields, Index, "index")
        entries = len(document.manifests)
    else:
        document = _typed(fields, Manifest, "manifest")
        entries = len(document.layers)
    if document.schema_version != 2:
        raise InvalidDocument(f"unsupported manifest schema version {document.schema_version}")
    if entries > LAYER_LIMIT:
        raise InvalidDocument(f"more than {LAYER_LIMIT} entries in one manifest")
    return document


def decode_manifest(raw: bytes, content_type: str = "") -> Manifest:
    """Read a manifest.  Raises InvalidDocument, for an index as well."""
    document = decode(raw, content_type)
    if isinstance(document, Index):
        raise InvalidDocument("an image index where a manifest was expected")
    return document


def decode_index(raw: bytes, content_type: str = "") -> Index:
    """Read an index.  Raises InvalidDocument, for a manifest as well."""
    document = decode(raw, content_type)
    if isinstance(document, Manifest):
        raise InvalidDocument("an image manifest where an index was expected")
    return document


def decode_config(raw: bytes) -> ImageConfig:
    """Read an image config.  Raises InvalidDocument."""
    fields = _object(raw, CONFIG_LIMIT, "image config")
    _refuse_other_case(fields, ImageConfig, "image config")
    for name in ("config", "container_config"):
        _words(fields.get(name))
    if fields.get("rootfs") is None:
        raise InvalidDocument("invalid image JSON, no RootFS key")
    config = _typed(fields, ImageConfig, "image config")
    if config.rootfs.type != "layers":
        raise InvalidDocument(f"image config: unknown rootfs type {config.rootfs.type!r}")
    if len(config.rootfs.diff_ids) > LAYER_LIMIT:
        raise InvalidDocument(f"image config: more than {LAYER_LIMIT} layers")
    return config


def encode(document: Manifest | Index | ImageConfig | Config) -> bytes:
    """The one way Wherry writes ``document``: keys sorted, what is empty left out, no space; the same value gives the same bytes."""
    return msgspec.json.encode(_plain(document), order="sorted")


def _plain(document: msgspec.Struct) -> Any:
    return msgspec.to_builtins(document, enc_hook=str)


def _object(raw: bytes, limit: int, what: str) -> dict[str, Any]:
    """``raw`` as one JSON object without ambiguity: UTF-8, no key twice, no NaN, no lone surrogate."""
    if len(raw) > limit:
        raise InvalidDocument(f"{what} is larger than {limit} bytes")
    try:
        fields = foreign.loads(raw, _once)
        msgspec.json.decode(raw)  # strict about numbers, encoding and surrogates, where json is not
    except InvalidDocument:
        raise
    except (ValueError, RecursionError) as error:
        raise InvalidDocument(f"{what} is not valid JSON: {error}") from error
    if not isinstance(fields, dict):
        raise InvalidDocument(f"{what} is not a JSON object")
    return fields


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidDocument(f"ambiguous JSON: key {twice!r} appears twice")
    return fields


def _media_type(fields: dict[str, Any], content_type: str) -> str:
    for kind in (Manifest, Index):
        _refuse_other_case(fields, kind, "manifest")
    own = fields.get("mediaType") or ""
    if not isinstance(own, str):
        raise InvalidDocument("manifest: mediaType is not a string")
    known = MANIFESTS | INDEXES | DOCKER_SCHEMA1
    if own and content_type in known and own != content_type:
        raise InvalidDocument(f"manifest says it is {own!r} but was sent as {content_type!r}")
    return own or (content_type if content_type in known else "")


def _refuse_other_case(fields: dict[str, Any], kind: type[msgspec.Struct], what: str) -> None:
    """Go matches keys without case: ``Layers`` beside ``layers`` would be read as one or the other."""
    known = {name.lower(): name for name in kind.__struct_encode_fields__}
    for name in fields:
        if known.get(name.lower(), name) != name:
            raise InvalidDocument(f"ambiguous {what}: key {name!r} for {known[name.lower()]!r}")


def _words(config: object) -> None:
    """Old images say a command as one string where a list of words belongs; Docker reads it as a list of one."""
    if isinstance(config, dict):
        for name in ("Cmd", "Entrypoint", "Shell", "OnBuild"):
            if isinstance(config.get(name), str):
                config[name] = [config[name]]
        for name in ("ExposedPorts", "Volumes"):
            if isinstance(config.get(name), dict):
                config[name] = {key: value or {} for key, value in config[name].items()}


def _typed(fields: dict[str, Any], kind: type[Document], what: str) -> Document:
    try:
        return msgspec.convert(_without_null(fields), kind, dec_hook=_checked)
    except msgspec.ValidationError as error:
        raise InvalidDocument(f"invalid {what}: {error}") from error


def _without_null(value: Any) -> Any:
    """A key whose value is null reads as one that is absent, as in Go."""
    if isinstance(value, dict):
        return {name: _without_null(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_null(item) for item in value]
    return value


def _checked(kind: type, value: Any) -> Any:
    return kind(value)
