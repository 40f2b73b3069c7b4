"""A real registry on loopback: Debian's docker-registry, keeping everything in a folder of the test's."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.system.waiting import logged

CONFIG = """\
version: 0.1
log: {{level: info, accesslog: {{disabled: false}}}}
storage:
  filesystem: {{rootdirectory: {root}/blobs}}
  delete: {{enabled: true}}
http: {{addr: "127.0.0.1:0"}}
{auth}
"""


@dataclass(kw_only=True)
class Registry:
    address: str
    log_path: Path
    process: subprocess.Popen[bytes]

    def requests(self) -> list[str]:
        """``METHOD PATH`` of every request so far."""
        found = []
        for line in self.log_path.read_text(errors="replace").splitlines():
            words = line.split('"')
            if len(words) > 2 and words[1].endswith(("HTTP/1.1", "HTTP/2.0")):
                found.append(words[1].rpartition(" ")[0])
        return found


@contextmanager
def registry(root: Path, *, auth: str = "") -> Iterator[Registry]:
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("needs docker-registry (Debian package docker-registry)")
    (root / "config.yml").write_text(CONFIG.format(root=root, auth=auth))
    log_path = root / "registry.log"
    with log_path.open("wb") as log, subprocess.Popen([program, "serve", str(root / "config.yml")], stdout=log, stderr=log) as process:
        try:
            address = logged(log_path, r"listening on (127\.0\.0\.1:\d+)", process)
            yield Registry(address=address, log_path=log_path, process=process)
        finally:
            process.kill()
