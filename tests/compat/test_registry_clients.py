"""Docker's command line and docker-py push to and pull from a registry that asks who they are, through our daemon."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest
from tests.compat.docker_cli import DockerCli, find_docker
from tests.conftest import Daemon
from tests.system.registry import Registry, registry

pytestmark = [pytest.mark.root, pytest.mark.slow]
SECRET_AS_BCRYPT = "$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a"  # the word "secret"


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    root = tmp_path_factory.mktemp("private")
    (root / "htpasswd").write_text(f"al:{SECRET_AS_BCRYPT}\n")
    with registry(root, auth=f"auth: {{htpasswd: {{realm: test, path: {root}/htpasswd}}}}") as running:
        yield running


def test_dockers_command_line_logs_in_pushes_and_pulls(engine: Daemon, private: Registry, tmp_path: Path) -> None:
    program = find_docker()
    if program is None:
        pytest.skip("needs Docker's command line: no `docker` on PATH, nor in $PEERS_CLIENTS")
    cli = DockerCli(engine=engine, program=program, config=tmp_path)
    name = f"{private.address}/cli/x:1"
    cli.out("tag", "bb", name)
    assert "no basic auth credentials" in cli.run("push", name).err
    wrong = cli.run("login", "-u", "al", "--password-stdin", private.address, stdin=b"wrong")
    assert f"login attempt to http://{private.address}/v2/ failed with status: 401 Unauthorized" in wrong.err
    assert "Login Succeeded" in cli.out("login", "-u", "al", "--password-stdin", private.address, stdin=b"secret")
    lines = cli.out("push", name).splitlines()
    assert lines[0] == f"The push refers to repository [{private.address}/cli/x]"
    assert lines[1].endswith(": Preparing")
    assert lines[-2].endswith(": Pushed")
    digest = lines[-1].split()[2]
    assert lines[-1].startswith(f"1: digest: {digest} size: ")
    cli.out("rmi", name)
    by_digest = f"{private.address}/cli/x@{digest}"
    for asked in (name, by_digest):
        lines = cli.out("pull", asked).splitlines()
        outcome = "Downloaded newer image" if asked == name else "Image is up to date"
        assert lines[-3:] == [f"Digest: {digest}", f"Status: {outcome} for {asked}", asked]
    assert cli.out("run", "--rm", "--net", "none", by_digest, "echo", "pulled") == "pulled"
    cli.out("logout", private.address)
    assert "no basic auth credentials" in cli.run("pull", name).err
    cli.out("rmi", name)


def test_docker_py_pushes_and_pulls_with_what_it_is_given(engine: Daemon, private: Registry) -> None:
    client: Any = docker.DockerClient(base_url=engine.host, version="auto")
    account = {"username": "al", "password": "secret"}
    repository = f"{private.address}/py/x"
    try:
        image = client.images.get("bb")
        assert image.tag(repository, "1")
        assert image.tag(repository, "2")
        records = list(client.images.push(repository, auth_config=account, stream=True, decode=True))
        assert [record["aux"]["Tag"] for record in records if "aux" in record] == ["1", "2"]
        for tag in "12":
            client.images.remove(f"{repository}:{tag}")
        with pytest.raises(docker.errors.APIError, match="no basic auth credentials"):
            client.images.pull(repository, tag="1")
        pulled = client.images.pull(repository, all_tags=True, auth_config=account)
        assert sorted(tag for one in pulled for tag in one.tags if tag.startswith(repository)) == [f"{repository}:1", f"{repository}:2"]
        assert client.images.get_registry_data(f"{repository}:1", auth_config=account).has_platform("linux/amd64")
        for tag in "12":
            client.images.remove(f"{repository}:{tag}")
    finally:
        client.close()
