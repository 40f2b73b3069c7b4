"""What running containers hold, one small file each under the run directory.

Not in the database: it must outlive the daemon, not the machine (no container outlives that), so it needs no fsync.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress

import msgspec

from wherry.networks.record import SandboxRecord

log = logging.getLogger(__name__)

_SUFFIX = ".json"


class Ledger:
    """Sandbox records by container id in ``folder``, which is made when it is missing."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        os.makedirs(folder, mode=0o700, exist_ok=True)

    def keep(self, record: SandboxRecord) -> None:
        """Write or replace a record; a reader sees the old or the new one."""
        path = self._path(record.container_id)
        fd = os.open(path + "~", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, msgspec.json.encode(record))
        finally:
            os.close(fd)
        os.rename(path + "~", path)

    def forget(self, container_id: str) -> None:
        """Remove a record; an absent one is success."""
        with suppress(FileNotFoundError):
            os.unlink(self._path(container_id))

    def load(self) -> list[SandboxRecord]:
        """All records; what is unreadable is said in the log and removed."""
        found: list[SandboxRecord] = []
        for name in sorted(os.listdir(self._folder)):
            path = os.path.join(self._folder, name)
            if not name.endswith(_SUFFIX):  # a crash came before it got its name
                os.unlink(path)
                continue
            try:
                with open(path, "rb") as source:
                    found.append(msgspec.json.decode(source.read(), type=SandboxRecord))
            except msgspec.DecodeError as error:
                log.warning("%s: %s", path, error)
                os.unlink(path)
        return found

    def _path(self, container_id: str) -> str:
        return os.path.join(self._folder, container_id + _SUFFIX)
