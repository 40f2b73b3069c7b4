"""Images through the command line: names, sharing, removal, archives, and a real registry on loopback."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.conftest import Daemon, make_daemon, running
from tests.system.registry import Registry, registry
from tests.system.talk import UnixConnection, ask
from tests.system.waiting import until

pytestmark = pytest.mark.root

SECRET_AS_BCRYPT = "$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a"  # the word "secret"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="module")
def other() -> Iterator[Daemon]:
    """A second machine, as it were: a daemon with no image at all."""
    with running(make_daemon(), image=False) as daemon:
        yield daemon


def build(engine: Daemon, folder: Path, dockerfile: str, *options: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "Dockerfile").write_text(dockerfile)
    return engine.out("build", "-q", *options, str(folder))


def test_an_image_is_named_by_tag_id_and_short_id(engine: Daemon) -> None:
    engine.run("tag", "bb", "localhost:5000/team/tool:1.0")
    ident = engine.out("image", "inspect", "bb", "-f", "{{.Id}}")
    for name in ("bb", "bb:latest", "docker.io/library/bb", ident, ident.removeprefix("sha256:")[:12], "localhost:5000/team/tool:1.0"):
        assert engine.out("image", "inspect", name, "-f", "{{.Id}}") == ident
    engine.run("rmi", "localhost:5000/team/tool:1.0")


def test_images_lists_each_tag_and_filters(engine: Daemon) -> None:
    engine.run("tag", "bb", "listed:14")
    engine.run("tag", "bb", "listed:15")
    assert sorted(engine.out("images", "listed", "--format", "{{.Repository}}:{{.Tag}}").split()) == ["listed:14", "listed:15"]
    assert engine.out("images", "-q", "listed:14") == engine.out("images", "-q", "bb")
    assert "Untagged: listed:14" in engine.out("rmi", "listed:14", "listed:15")
    assert engine.out("images", "listed", "-q") == ""


def test_rmi_refuses_while_a_container_uses_the_image(engine: Daemon, tmp_path: Path) -> None:
    build(engine, tmp_path / "c", "FROM bb\nLABEL used=yes\n", "-t", "used")
    engine.run("run", "-d", "--name", "user", "used", "sleep", "1000")
    refused = engine.run("rmi", "used", check=False)
    assert refused.code == 1
    assert "conflict: unable to" in refused.err
    assert "container" in refused.err
    engine.run("stop", "-t", "0", "user")
    assert engine.run("rmi", "used", check=False).code == 1
    engine.run("rm", "user")
    assert "Deleted: sha256:" in engine.out("rmi", "used")


def test_a_rebuilt_tag_leaves_a_nameless_image_that_prune_removes(own_engine: Daemon, tmp_path: Path) -> None:
    engine = own_engine
    first = build(engine, tmp_path / "c", "FROM bb\nRUN echo 1 > /version\n", "-t", "app")
    second = build(engine, tmp_path / "c", "FROM bb\nRUN echo 2 > /version\n", "-t", "app")
    assert first != second
    assert (
        engine.out("images", "-f", "dangling=true", "--no-trunc", "--format", "{{.Repository}} {{.Tag}} {{.ID}}")
        == f"<none> <none> {first}"
    )
    assert first in engine.out("image", "prune", "-f")
    assert engine.out("images", "-f", "dangling=true", "-q") == ""
    assert engine.out("run", "--rm", "app", "cat", "/version") == "2"
    engine.run("image", "prune", "-a", "-f")
    assert engine.out("images", "-q") == ""


def test_shared_layers_are_stored_and_counted_once(own_engine: Daemon, tmp_path: Path) -> None:
    engine = own_engine
    build(engine, tmp_path / "c", "FROM bb\nRUN dd if=/dev/zero of=/big bs=1M count=8\n", "-t", "base")
    for name in ("left", "right"):
        build(engine, tmp_path / "c", f"FROM base\nRUN echo {name} > /name\n", "-t", name)
    layers = [json.loads(engine.out("image", "inspect", name, "-f", "{{json .RootFS.Layers}}")) for name in ("base", "left", "right")]
    assert layers[1][:-1] == layers[2][:-1] == layers[0]
    rows = json.loads(engine.out("system", "df", "-v", "--format", "json"))["Images"]
    shared = {row["Repository"]: (row["SharedSize"], row["UniqueSize"]) for row in rows}
    assert shared["left"][0] == shared["right"][0] != "0B"
    assert int("".join(filter(str.isdigit, shared["left"][1]))) < 10


def test_a_commit_without_changes_is_an_image_without_another_layer(engine: Daemon) -> None:
    engine.run("create", "--name", "unchanged", "bb", "true")
    engine.run("commit", "-m", "said", "-a", "me", "-c", "CMD x y", "unchanged", "committed:1")
    told = engine.out("history", "committed:1", "--format", "{{.CreatedBy}}|{{.Size}}|{{.Comment}}").splitlines()
    assert told[0] == "true|0B|said"
    assert (
        engine.out("image", "inspect", "committed:1", "-f", "{{len .RootFS.Layers}} {{.Author}} {{.Config.Cmd}}") == "1 me [/bin/sh -c x y]"
    )
    refused = engine.run("commit", "unchanged", f"committed@sha256:{'0' * 64}", check=False)
    assert (refused.code, refused.err) == (1, "refusing to create a tag with a digest reference\n")
    engine.run("rm", "unchanged")
    engine.run("rmi", "committed:1")


def test_a_commit_is_carried_out_when_its_container_is_removed_meanwhile(engine: Daemon) -> None:
    engine.run("run", "-d", "--net", "none", "--name", "leaving", "bb", "sh", "-c", "dd if=/dev/zero bs=1M count=128 > /big; sleep 1000")
    until(lambda: ask(engine, "GET", "/containers/leaving/json?size=1")[1]["SizeRw"] >= 128 << 20)
    with ThreadPoolExecutor() as pool:
        committed = pool.submit(ask, engine, "POST", "/commit?container=leaving&repo=left")
        until(lambda: ask(engine, "GET", "/containers/leaving/json")[1]["State"]["Paused"])
        assert ask(engine, "DELETE", "/containers/leaving?force=1")[0] == 204
    assert (committed.result()[0], engine.run("rmi", "left").code) == (201, 0)


def test_a_commit_that_waits_while_its_container_is_removed_is_refused(engine: Daemon) -> None:
    engine.run("run", "--net", "none", "--name", "leaving", "bb", "dd", "if=/dev/zero", "of=/big", "bs=1M", "count=128")
    ident = engine.out("inspect", "leaving", "-f", "{{.Id}}")
    snapshots = engine.root / "data" / "snapshots"
    before = len(list(snapshots.iterdir()))
    with ThreadPoolExecutor() as pool:
        first = pool.submit(ask, engine, "POST", "/commit?container=leaving&repo=left")
        until(lambda: len(list(snapshots.iterdir())) > before)
        removal = UnixConnection(engine.socket_path)
        removal.request("DELETE", "/containers/leaving")
        assert ask(engine, "GET", "/_ping")[0] == 200  # the daemon has read the removal too
        later = ask(engine, "POST", "/commit?container=leaving&repo=left")
    assert later == (409, {"message": f"You cannot commit container {ident} which is being removed"})
    assert (first.result()[0], removal.getresponse().status) == (201, 204)
    removal.close()
    engine.run("rmi", "left")


def test_an_empty_layer_of_an_image_stays_when_a_commit_finds_nothing_new(engine: Daemon) -> None:
    empty = tarfile.open(fileobj=(raw := io.BytesIO()), mode="w")
    empty.close()
    layer = raw.getvalue()[:1024]
    config = json.loads(_config_of(engine, "bb"))
    config["rootfs"]["diff_ids"].append("sha256:" + hashlib.sha256(layer).hexdigest())
    engine.run("save", "bb", "-o", f"{engine.root}/bb.tar")
    out = io.BytesIO()
    with tarfile.open(f"{engine.root}/bb.tar") as saved, tarfile.open(fileobj=out, mode="w") as tar:
        [item] = json.loads(saved.extractfile("manifest.json").read())  # type: ignore[union-attr]
        files = {"config": json.dumps(config).encode(), "base": saved.extractfile(item["Layers"][0]).read(), "empty": layer}  # type: ignore[union-attr]
        files["manifest.json"] = json.dumps([{"Config": "config", "RepoTags": ["hollow:1"], "Layers": ["base", "empty"]}]).encode()
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    engine.run("load", stdin=out.getvalue())
    engine.run("create", "--name", "nothing-new", "bb", "true")
    engine.run("commit", "nothing-new", "nothing:1")
    assert engine.out("run", "--rm", "hollow:1", "echo", "runs") == "runs"
    engine.run("rm", "nothing-new")
    engine.run("rmi", "hollow:1", "nothing:1")


def _config_of(engine: Daemon, name: str) -> str:
    engine.run("save", name, "-o", f"{engine.root}/saved.tar")
    with tarfile.open(f"{engine.root}/saved.tar") as saved:
        [item] = json.loads(saved.extractfile("manifest.json").read())  # type: ignore[union-attr]
        return saved.extractfile(item["Config"]).read().decode()  # type: ignore[union-attr]


def test_history_tells_the_instructions_newest_first(engine: Daemon, tmp_path: Path) -> None:
    build(engine, tmp_path / "c", 'FROM bb\nENV A=1\nRUN echo hello > /x\nCMD ["cat", "/x"]\n', "-t", "told")
    lines = engine.out("history", "--no-trunc", "--format", "{{.CreatedBy}}", "told").splitlines()
    assert lines[0] == 'CMD ["cat" "/x"]'
    assert "echo hello > /x" in lines[1]
    assert lines[2] == "ENV A=1"
    engine.run("rmi", "told")


def test_inspect_takes_go_templates_also_after_the_name(engine: Daemon) -> None:
    layers = engine.out("image", "inspect", "bb", "-f", "{{.RootFS.Layers}}")
    assert layers.startswith("[sha256:")
    assert layers.endswith("]")
    assert engine.out("image", "inspect", "-f", "{{len .RootFS.Layers}} {{.Os}}", "bb") == "1 linux"
    assert engine.run("image", "inspect", "no-such-image", check=False).code == 1


def test_save_and_load_carry_images_to_another_engine(engine: Daemon, other: Daemon, tmp_path: Path) -> None:
    build(engine, tmp_path / "c", "FROM bb\nRUN echo carried > /x\nCMD cat /x\n", "-t", "carried:1")
    engine.run("save", "-o", f"{tmp_path}/image.tar", "carried:1")
    with tarfile.open(tmp_path / "image.tar") as tar:
        assert {"manifest.json", "index.json", "oci-layout"} <= set(tar.getnames())
    assert other.out("load", "-i", f"{tmp_path}/image.tar") == "Loaded image: carried:1"
    assert other.out("run", "--rm", "carried:1") == "carried"
    assert other.out("image", "inspect", "carried:1", "-f", "{{.Id}}") == engine.out("image", "inspect", "carried:1", "-f", "{{.Id}}")
    other.run("rmi", "carried:1")
    engine.run("rmi", "carried:1")


def test_push_and_pull_move_an_image_through_a_registry(engine: Daemon, other: Daemon, hub: Registry, tmp_path: Path) -> None:
    name = f"{hub.address}/team/app:1"
    build(engine, tmp_path / "c", "FROM bb\nRUN echo pulled > /x\nCMD cat /x\n", "-t", name)
    pushed = engine.out("push", name)
    digest = pushed.rpartition("digest: ")[2].split()[0]
    pulled = other.out("pull", name)
    assert f"Digest: {digest}" in pulled
    assert f"Status: Downloaded newer image for {name}" in pulled
    assert f"Status: Image is up to date for {name}" in other.out("pull", name)
    assert other.out("run", "--rm", name) == "pulled"
    assert other.out("run", "--rm", f"{hub.address}/team/app@{digest}") == "pulled"
    other.run("rmi", "-f", name, check=False)


def test_only_missing_layers_move(engine: Daemon, other: Daemon, hub: Registry, tmp_path: Path) -> None:
    def layers_moved(method: str) -> int:
        return sum(line.startswith(method) and "/blobs/" in line for line in hub.requests())

    first, second = f"{hub.address}/layers:1", f"{hub.address}/layers:2"
    build(engine, tmp_path / "c", "FROM bb\nRUN echo one > /one\n", "-t", first)
    build(engine, tmp_path / "c", "FROM bb\nRUN echo one > /one\nRUN echo two > /two\n", "-t", second)
    engine.run("push", first)
    before = layers_moved("PUT")
    assert engine.out("push", second).count("Layer already exists") == 2
    assert layers_moved("PUT") - before == 2  # the new layer and the configuration
    other.run("pull", first)
    before = layers_moved("GET")
    assert other.out("pull", second).count("Already exists") == 2
    assert layers_moved("GET") - before == 2
    other.run("rmi", first, second)


def test_run_pulls_what_is_missing_and_only_then(engine: Daemon, other: Daemon, hub: Registry) -> None:
    name = f"{hub.address}/wanted:1"
    engine.run("tag", "bb", name)
    engine.run("push", name)
    first = other.run("run", "--rm", name, "echo", "here")
    assert first.out == "here\n"
    assert f"Unable to find image '{name}' locally" in first.err
    asked = len(hub.requests())
    second = other.run("run", "--rm", name, "echo", "again")
    assert (second.out, second.err) == ("again\n", "")
    assert len(hub.requests()) == asked
    assert other.run("run", "--rm", "--pull", "never", f"{hub.address}/absent", "true", check=False).code == 125
    missing = other.run("run", "--rm", f"{hub.address}/absent", "true", check=False)
    assert missing.code == 125
    assert "manifest" in missing.err or "not found" in missing.err


def test_build_pulls_its_base_when_missing(engine: Daemon, other: Daemon, hub: Registry, tmp_path: Path) -> None:
    name = f"{hub.address}/base:1"
    engine.run("tag", "bb", name)
    engine.run("push", name)
    build(other, tmp_path / "c", f"FROM {name}\nRUN echo on top > /x\nCMD cat /x\n", "-t", "top")
    assert other.out("run", "--rm", "top") == "on top"


def test_login_is_checked_kept_privately_and_forgotten(engine: Daemon, tmp_path: Path) -> None:
    (tmp_path / "htpasswd").write_text(f"al:{SECRET_AS_BCRYPT}\n")
    with registry(tmp_path, auth=f"auth: {{htpasswd: {{realm: test, path: {tmp_path}/htpasswd}}}}") as private:
        login = ("login", "-u", "al", "--password-stdin", private.address)
        wrong = engine.run(*login, stdin=b"wrong", check=False)
        assert wrong.code == 1
        assert f"login attempt to http://{private.address}/v2/ failed with status: 401 Unauthorized" in wrong.err
        name = f"{private.address}/secret:1"
        engine.run("tag", "bb", name)
        denied = engine.run("push", name, check=False)
        assert (denied.code, "no basic auth credentials" in denied.err) == (1, True)
        assert "Login Succeeded" in engine.out(*login, stdin=b"secret")
        config = engine.root / "config" / "config.json"
        assert config.stat().st_mode & 0o777 == 0o600
        again = engine.run("login", private.address)
        assert (again.out, again.err.partition("\n")[0]) == (
            "Login Succeeded\n",
            "Authenticating with existing credentials... [Username: al]",
        )
        assert "stored unencrypted" not in again.err
        engine.run("push", name)
        engine.run("logout", private.address)
        assert private.address not in config.read_text()
        assert engine.run("pull", name, check=False).code == 1
        engine.run("rmi", name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pull", "Case"), "invalid reference format: repository name (library/Case) must be lowercase"),
        (("tag", "no-such-image", "x"), "No such image: no-such-image:latest"),
        (("rmi", "no-such-image"), "No such image: no-such-image:latest"),
        (("history", "no-such-image"), "No such image: no-such-image"),
        (("load", "-i", "/no/such/file"), "no such file or directory"),
    ],
)
def test_wrong_names_get_dockers_words(engine: Daemon, arguments: tuple[str, ...], message: str) -> None:
    done = engine.run(*arguments, check=False)
    assert done.code == 1
    assert message in done.err
