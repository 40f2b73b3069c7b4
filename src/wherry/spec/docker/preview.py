"""What ``GET /wherry/v1/prune`` answers: the reports of all prunes, of what would go."""

from __future__ import annotations

import msgspec

from wherry.spec.docker.image import ImageDeleted


class PrunePreview(msgspec.Struct, kw_only=True, rename="pascal"):
    """As Docker's reports have them, in one object."""

    containers_deleted: list[str] = msgspec.field(default_factory=list)
    networks_deleted: list[str] = msgspec.field(default_factory=list)
    volumes_deleted: list[str] = msgspec.field(default_factory=list)
    images_deleted: list[ImageDeleted] = msgspec.field(default_factory=list)
    caches_deleted: list[str] = msgspec.field(default_factory=list)
    space_reclaimed: int = 0
