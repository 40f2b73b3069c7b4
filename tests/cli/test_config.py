"""config.json: credentials, helpers and preferences."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path

import pytest

from wherry.cli.config import HUB, ConfigError, Credentials, load, of_environment, server_of


def test_missing_file_is_an_empty_configuration(tmp_path: Path) -> None:
    assert load(str(tmp_path)).values == {}


def test_credentials_are_kept_as_docker_keeps_them(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    load(str(folder)).store(Credentials("localhost:5000", "u", "p:w"))
    path = folder / "config.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text()) == {"auths": {"localhost:5000": {"auth": base64.b64encode(b"u:p:w").decode()}}}
    assert path.read_text().startswith('{\n\t"auths": {\n\t\t"localhost:5000"')
    known = load(str(folder)).credentials("localhost:5000")
    assert known is not None
    assert (known.username, known.password) == ("u", "p:w")


def test_unknown_keys_survive_a_change(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"detachKeys":"ctrl-x","plugins":{"a":{"b":"c"}},"auths":{"r":{"auth":"dTpw"}}}')
    config = load(str(tmp_path))
    config.erase("r")
    config.erase("never")
    assert json.loads((tmp_path / "config.json").read_text()) == {"detachKeys": "ctrl-x", "plugins": {"a": {"b": "c"}}, "auths": {}}


def test_a_link_to_the_file_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("{}")
    (tmp_path / "config.json").symlink_to("real.json")
    load(str(tmp_path)).store(Credentials("r", "u", "p"))
    assert (tmp_path / "config.json").is_symlink()
    assert "auths" in (tmp_path / "real.json").read_text()


@pytest.mark.parametrize("text", ["{", "[]", '"x"'])
def test_broken_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json"):
        load(str(tmp_path))


def test_helper_keeps_the_secret_out_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "kept"
    program = tmp_path / "docker-credential-test"
    program.write_text(
        f"#!/bin/sh\ncase $1 in store) cat > {kept};; get) cat > /dev/null; test -e {kept} && cat {kept} || "
        "{ echo credentials not found in native keychain; exit 1; };;\n"
        f"erase) rm -f {kept};; esac\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "config.json").write_text('{"credsStore":"test"}')
    config = load(str(tmp_path))
    assert config.credentials("r") is None
    config.store(Credentials("r", "u", "secret"))
    assert "secret" not in (tmp_path / "config.json").read_text()
    known = config.credentials("r")
    assert known is not None
    assert (known.username, known.password) == ("u", "secret")
    config.erase("r")
    assert config.credentials("r") is None


def test_every_server_of_a_store_and_of_helpers_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each server is asked of the helper that is its own, by its own name."""
    for name, listed in (("all", '{"one":"u"}'), ("two", "{}")):
        program = tmp_path / f"docker-credential-{name}"
        answer = f'{{"ServerURL":"x","Username":"{name}","Secret":"s"}}'
        program.write_text(f"#!/bin/sh\nread server; case $1 in list) echo '{listed}';; get) echo '{answer}';; esac\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "config.json").write_text('{"credsStore":"all","credHelpers":{"two.example":"two"}}')
    found = load(str(tmp_path)).all_credentials()
    assert {server: body["username"] for server, body in found.items()} == {"one": "all", "two.example": "two"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../../evil", "is not the name of a credential helper"),
        ("a b", "is not the name of a credential helper"),
        ("endless", "says more than 1048576 bytes"),
        ("broken", "exit status 3, out: `why`"),
    ],
)
def test_a_helper_that_misbehaves_is_told(name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for helper, script in (("endless", "exec yes"), ("broken", "echo why; exit 3")):
        program = tmp_path / f"docker-credential-{helper}"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "config.json").write_text(json.dumps({"credHelpers": {"r": name}}))
    with pytest.raises(ConfigError) as caught:
        load(str(tmp_path)).credentials("r")
    assert message in str(caught.value)


def test_what_is_kept_already_is_not_written_again(tmp_path: Path) -> None:
    config = load(str(tmp_path))
    assert config.store(Credentials("r", "u", "secret"))
    (tmp_path / "config.json").unlink()
    assert not config.store(Credentials("r", "u", "secret"))
    assert not (tmp_path / "config.json").exists()


def test_absent_helper_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"credHelpers":{"r":"no-such-helper"}}')
    with pytest.raises(ConfigError, match="docker-credential-no-such-helper"):
        load(str(tmp_path)).credentials("r")


def test_header_is_url_safe_base64_of_json() -> None:
    header = Credentials("r", "u", "\xff\xfe?>").header()
    assert not set(header) & set("+/")
    assert json.loads(base64.urlsafe_b64decode(header)) == {"username": "u", "password": "\xff\xfe?>", "serveraddress": "r"}


def test_hub_has_its_old_key() -> None:
    assert (server_of("docker.io"), server_of("localhost:5000")) == (HUB, "localhost:5000")


def test_proxies_are_given_in_both_cases(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"proxies":{"default":{"httpProxy":"http://p:1","noProxy":"x"}}}')
    expected = {"HTTP_PROXY": "http://p:1", "http_proxy": "http://p:1", "NO_PROXY": "x", "no_proxy": "x"}
    assert load(str(tmp_path)).proxies("unix:///x") == expected


def test_what_the_environment_gives_goes_before_what_is_kept(tmp_path: Path) -> None:
    config = load(str(tmp_path))
    config.store(Credentials("r", "kept", "p"))
    config.store(Credentials("other", "kept", "p"))
    config.given = of_environment(json.dumps({"auths": {"r": {"auth": base64.b64encode(b"ci:job").decode()}}}))
    assert (known := config.credentials("r")) is not None
    assert (known.username, known.password) == ("ci", "job")
    assert {server: body["username"] for server, body in config.all_credentials().items()} == {"r": "ci", "other": "kept"}
    config.erase("r")
    assert config.credentials("r") is known
    assert of_environment("") == of_environment('{"auths":{}}') == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("junk", ""),
        ("[]", "json: not an object"),
        ('{"auths":{"r":"x"}}', "json: not an object"),
        ('{"auths":{"r":{"username":"u"}}}', 'json: unknown field "username"'),
        ('{"credsStore":"x"}', 'json: unknown field "credsStore"'),
        ('{"auths":{"r":{}}}', "DOCKER_AUTH_CONFIG environment variable is missing key `auth` for r"),
        ('{"auths":{}} {}', "after the value"),
    ],
)
def test_what_is_wrong_in_the_environment_is_told(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        of_environment(text)
    assert str(caught.value).startswith("Failed to create credential store from DOCKER_AUTH_CONFIG:  ")
    assert message in str(caught.value)
