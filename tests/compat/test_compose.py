"""Docker Compose, unchanged, against a real daemon: a project of two services from nothing to nothing."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.compat.docker_cli import DockerCli, find_docker, find_plugin
from tests.conftest import Daemon, Result

pytestmark = [pytest.mark.root, pytest.mark.slow]
PROJECT = """\
name: cmpose
services:
  db:
    image: bb
    command: sh -c 'echo db up; trap "exit 0" TERM; while :; do sleep 0.1; done'
    volumes: [data:/data]
    healthcheck: {test: [CMD, test, -d, /data], interval: 200ms, retries: 3}
    networks: {back: {aliases: [database]}}
  web:
    build: ./web
    image: cmpose-web
    depends_on: {db: {condition: service_healthy}}
    command: sh -c 'echo web up; exec httpd -f -p 80 -h /www'
    ports: ["127.0.0.1::80"]
    networks: [back, default]
    configs: [{source: greeting, target: /greeting}]
    secrets: [password]
    restart: unless-stopped
    init: true
  once:
    image: bb
    command: sh -c 'echo once; exit 4'
    profiles: [tools]
volumes: {data: {}}
networks: {back: {}}
configs: {greeting: {content: hello}}
secrets: {password: {file: ./password}}
"""


class Compose:
    def __init__(self, docker: DockerCli, folder: Path) -> None:
        self._docker, self._folder = docker, folder

    def run(self, *arguments: str) -> Result:
        return self._docker.run("compose", *arguments, cwd=self._folder, timeout=90)

    def out(self, *arguments: str) -> str:
        result = self.run(*arguments)
        assert result.code == 0, f"compose {' '.join(arguments)}: exit {result.code}\n{result.out}{result.err}"
        return result.out.strip()

    def ps(self) -> dict[str, str]:
        """Container name -> state, with its health."""
        rows = [json.loads(line) for line in self.out("ps", "-a", "--format", "json").splitlines()]
        return {row["Name"]: f"{row['State']} {row['Health']}".strip() for row in rows}


@pytest.fixture
def compose(engine: Daemon, tmp_path: Path) -> Iterator[Compose]:
    program, plugin = find_docker(), find_plugin("docker-compose")
    if program is None or plugin is None:
        pytest.skip("needs Docker's command line and its compose plugin: on PATH, or in $PEERS_CLIENTS")
    config, folder = tmp_path / "config", tmp_path / "project"
    config.mkdir()
    (folder / "web").mkdir(parents=True)
    (folder / "compose.yaml").write_text(PROJECT)
    (folder / "password").write_text("secret\n")
    (folder / "web" / "Dockerfile").write_text("FROM bb\nRUN mkdir /www && echo page > /www/index.html\n")
    docker = DockerCli(engine=engine, program=program, config=config)
    docker.environment = {"DOCKER_BUILDKIT": "0", "COMPOSE_BAKE": "false", "COMPOSE_PROGRESS": "plain"}
    docker.add_plugin(plugin)
    yield (made := Compose(docker, folder))
    made.run("--profile", "tools", "down", "-v", "--rmi", "local", "-t", "0")


def test_a_project_comes_up_works_changes_and_goes(compose: Compose, engine: Daemon) -> None:
    compose.out("build")
    compose.out("up", "-d")
    assert compose.ps() == {"cmpose-db-1": "running healthy", "cmpose-web-1": "running"}

    address = compose.out("port", "web", "80")
    assert urllib.request.urlopen(f"http://{address}/", timeout=10).read() == b"page\n"
    assert compose.out("exec", "-T", "web", "cat", "/greeting") == "hello"
    assert compose.out("exec", "-T", "web", "cat", "/run/secrets/password") == "secret"
    assert "1 packets received" in compose.out("exec", "-T", "web", "ping", "-c", "1", "-W", "5", "database")
    assert sorted(compose.out("logs", "--no-color", "--no-log-prefix").splitlines()) == ["db up", "web up"]
    assert compose.run("run", "--rm", "once").code == 4

    compose.out("up", "-d", "--scale", "db=2", "--no-recreate")
    assert set(compose.ps()) == {"cmpose-db-1", "cmpose-db-2", "cmpose-web-1"}
    compose.out("restart", "-t", "1", "web")
    compose.out("pause", "web")
    assert compose.ps()["cmpose-web-1"] == "paused"
    compose.out("unpause", "web")
    compose.out("stop", "-t", "1", "db")
    assert compose.ps()["cmpose-db-1"] == "exited"
    compose.out("up", "-d", "--force-recreate", "-t", "1")
    assert compose.ps()["cmpose-web-1"] == "running"

    compose.out("down", "-v", "--rmi", "local", "-t", "1")
    label = "label=com.docker.compose.project=cmpose"
    assert engine.out("ps", "-aq", "--filter", label) == ""
    assert engine.out("volume", "ls", "-q", "--filter", label) == ""
    assert engine.out("network", "ls", "-q", "--filter", label) == ""


def test_nothing_is_made_again_when_nothing_changed(compose: Compose) -> None:
    compose.out("up", "-d", "db")
    before = compose.out("ps", "-q", "db")
    compose.out("up", "-d", "db")
    assert compose.out("ps", "-q", "db") == before
