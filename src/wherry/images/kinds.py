"""Which of what registries hold is an image: artifacts (charts, signatures, plugins) and old manifests are refused in Docker's words."""

from __future__ import annotations

from wherry.errors import Internal, InvalidRequest
from wherry.spec import image as spec
from wherry.spec.image import ImageConfig, Manifest
from wherry.spec.reference import Reference

_CONFIGS = frozenset({spec.DOCKER_CONFIG, spec.OCI_CONFIG, "application/octet-stream", "application/json", "text/html", ""})
_PLUGIN = "application/vnd.docker.plugin.v1+json"
_PREFIXES = ("application/vnd.oci.image.", "application/vnd.docker.")
_SCHEMA1 = (
    "Docker Image Format v1 and Docker Image manifest version 2, schema 1 support has been removed. Suggest the author of {} to upgrade "
    "the image to the OCI Format or Docker Image manifest v2, schema 2. More information at https://docs.docker.com/go/deprecated-image-specs/"
)


def refuse_class(manifest: Manifest) -> None:
    """Raises InvalidRequest for a manifest of Docker's that is no image's."""
    kind = manifest.config.media_type
    if manifest.media_type == spec.DOCKER_MANIFEST and kind not in _CONFIGS:
        raise InvalidRequest(f'Encountered remote "{kind}"({"plugin" if kind == _PLUGIN else "unknown"}) when fetching')


def refuse_parts(manifest: Manifest) -> None:
    """Raises Internal for a config or layer that is no image's."""
    parts = manifest.layers if manifest.media_type == spec.DOCKER_MANIFEST else [manifest.config, *manifest.layers]
    for part in parts:
        if not part.media_type.startswith(_PREFIXES):
            raise Internal(f"unsupported media type {part.media_type}")


def refuse_system(config: ImageConfig) -> None:
    """Raises Internal for an image of another operating system."""
    if config.platform.os not in ("", "linux"):
        raise Internal(f'image operating system "{config.platform.os}" cannot be used on this platform: operating system is not supported')


def schema1(reference: Reference) -> Internal:
    """What a manifest of schema 1 is answered."""
    return Internal(_SCHEMA1.format(reference))
