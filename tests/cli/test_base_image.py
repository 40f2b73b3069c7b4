"""What base images take over from the host, and what they must not."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from wherry.cli import apt_sources, base_image

SOURCE = apt_sources.Source(["http://m/debian"], ["bookworm"], ["main"], {})


def names(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        found = {}
        for member in tar:
            content = tar.extractfile(member) if member.isfile() else None
            found[member.name] = content.read() if content is not None else member.linkname.encode()
        return found


def host_program(folder: Path, name: str, output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of this name that prints ``output`` comes first in the path."""
    (folder / f"{name}.out").write_text(output)
    program = folder / name
    program.write_text(f"#!/bin/sh\ncat {folder}/{name}.out\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_passwords_of_the_host_stay_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host_program(tmp_path, "npm", '{"registry":"https://u:secret@r/","https-proxy":"http://p:1","_authToken":"secret"}', monkeypatch)
    host_program(
        tmp_path, "pip3", "global.index-url='https://u:secret@i/simple'\nglobal.extra-index-url='file:///x https://e/'\n", monkeypatch
    )
    host_program(tmp_path, "apt-config", 'Acquire::http::Proxy "http://u:secret@p";\nAcquire::Retries "3";\nFoo "x";\n', monkeypatch)
    assert "secret" not in repr((base_image.npm_settings(), base_image.pip_settings(), base_image.host_apt_options()))
    assert base_image.npm_settings()["https-proxy"] == "http://p:1"
    assert base_image.pip_settings()["extra-index-url"] == "https://e/"
    assert base_image.host_apt_options()[0] == 'Acquire::Retries "3";\n'


def test_python_image_has_its_short_names_and_pip_settings() -> None:
    found = names(base_image.config_overlay("python", [SOURCE], None))
    assert found["usr/local/bin/python"] == b"/usr/bin/python3"
    assert b"cert = /etc/ssl/certs/ca-certificates.crt" in found["etc/pip.conf"]
    assert found["etc/apt/sources.list.d/debian.sources"].startswith(b"Types: deb\nURIs: http://m/debian\n")


def test_npm_is_unpacked_with_its_commands_and_nothing_outside(tmp_path: Path) -> None:
    archive = tmp_path / "npm.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("package/bin/npm-cli.js", "package/../../etc/evil"):
            member = tarfile.TarInfo(name)
            member.size = 1
            tar.addfile(member, io.BytesIO(b"x"))
    found = names(base_image.config_overlay("node", [SOURCE], str(archive)))
    assert found["usr/local/lib/node_modules/npm/bin/npm-cli.js"] == b"x"
    assert found["usr/local/bin/npm"] == b"../lib/node_modules/npm/bin/npm-cli.js"
    assert not any("evil" in name for name in found)


def test_every_recipe_names_its_command() -> None:
    assert [base_image.changes(kind)[-1] for kind in base_image.RECIPES] == ['CMD ["bash"]', 'CMD ["node"]', 'CMD ["python3"]']
