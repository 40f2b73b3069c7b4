"""What a snapshot hands the runtime: how a root filesystem is put together.  Standard library only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Rootfs:
    """A root filesystem that the container's own first process mounts, in its own mount namespace.

    ``lower``: directories, **top first**, that exist in the daemon's mount namespace (plain layer directories or mounted images).
    ``upper`` and ``work``: the writable layer; None for a read-only view.
    With ``lower`` empty, ``upper`` itself is the whole tree (the vfs snapshotter) and is bind-mounted.
    """

    lower: tuple[str, ...] = ()
    upper: str | None = None
    work: str | None = None

    def to_json(self) -> dict[str, object]:
        return {"lower": list(self.lower), "upper": self.upper, "work": self.work}

    @classmethod
    def from_json(cls, data: dict[str, object]) -> Rootfs:
        lower, upper, work = data["lower"], data["upper"], data["work"]
        assert isinstance(lower, list)
        return cls(lower=tuple(map(str, lower)), upper=None if upper is None else str(upper), work=None if work is None else str(work))
