"""Every command and example of the notes Wherry was made from, as written there, under the name `wherry`."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from tests.conftest import WHERRY, Daemon, Result
from tests.system.registry import registry
from tests.system.terminal import Terminal
from tests.system.waiting import until

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(600)]  # base images are made from package sources

DEMO = Path(__file__).resolve().parents[2] / "demo" / "app"
BASES = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wherry-tests"

NODE = """\
FROM node

WORKDIR /app

COPY package.json /app

RUN npm install

COPY . /app

EXPOSE 80

CMD ["node", "server.js"]
"""

APACHE = """\
FROM debian
ENV DEBIAN_FRONTEND noninteractive
RUN apt update && apt install -y apache2
ENTRYPOINT ["apachectl"]
CMD ["-D", "FOREGROUND"]
EXPOSE 8080/tcp
ADD conf/ /etc/apache2/
COPY html/ /var/www/html/
"""

Shell = Callable[[str], Result]


@pytest.fixture
def shell(engine: Daemon, tmp_path: Path) -> Shell:
    """A person's shell in a folder of its own, with `wherry` on the path."""
    environment = {
        **os.environ,
        "WHERRY_HOST": engine.host,
        "DOCKER_CONFIG": f"{engine.root}/config",
        "PATH": f"{Path(WHERRY).parent}:{os.environ['PATH']}",
    }

    def run(line: str) -> Result:
        done = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100, check=False)
        return Result(code=done.returncode, out=done.stdout.strip(), err=done.stderr.strip())

    return run


@pytest.fixture(scope="module")
def base(engine: Daemon) -> Callable[[str], None]:
    """Makes a base image from the host's package sources, or takes the one kept from an earlier run of the tests."""

    def make(kind: str) -> None:
        kept = BASES / f"{kind}.tar"
        if kept.exists() and time.time() - kept.stat().st_mtime < 14 * 86400:
            engine.run("load", "-i", str(kept))
            return
        engine.run("bootstrap", kind, timeout=400)
        BASES.mkdir(parents=True, exist_ok=True)
        unfinished = kept.with_suffix(f".{os.getpid()}")
        engine.run("save", "-o", str(unfinished), f"{kind}:latest")
        unfinished.rename(kept)

    return make


def page(port: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20) as answer:
        return str(answer.read().decode())


def answers(port: str) -> bool:
    try:
        return bool(page(port))
    except OSError:
        return False


@pytest.fixture
def clean(engine: Daemon) -> Iterator[None]:
    """Afterwards no container is left, and no image but those that other tests share."""
    yield
    for ident in engine.out("ps", "-aq").split():
        engine.run("rm", "-fv", ident)


# --- the commands, on an image that is there at once


def test_the_life_of_a_container_by_id_and_name(shell: Shell, clean: None) -> None:
    assert shell("wherry run --name greeter bb echo hello").out == "hello"
    assert "greeter" not in shell("wherry ps").out
    assert "greeter" in shell("wherry ps -a").out
    assert shell("wherry start greeter").out == "greeter"
    shell("wherry wait greeter")
    assert shell("wherry start -a greeter").out == "hello"
    assert shell("wherry logs greeter").out == "hello\nhello\nhello"
    ident = shell("wherry ps -aq").out
    assert shell(f"wherry rm {ident}").out == ident


def test_rm_f_of_every_container_in_both_notations(shell: Shell, clean: None) -> None:
    for line in ("wherry rm -f `wherry ps -aq`", "wherry rm -f $(wherry ps -aq)"):
        shell("wherry run -d bb sleep 1000; wherry create bb true; wherry run bb true")
        assert len(shell(line).out.split()) == 3
        assert shell("wherry ps -aq").out == ""


def test_several_are_stopped_and_removed_at_once(shell: Shell, clean: None) -> None:
    first, second = (shell("wherry run -d bb sleep 1000").out for _ in range(2))
    assert shell(f"wherry stop -t 0 {first} {second}").out.split() == [first, second]
    assert shell(f"wherry rm {first} {second}").out.split() == [first, second]


def test_logs_f_follows_until_the_end(shell: Shell, clean: None) -> None:
    shell("wherry run -d --name follow bb sh -c 'echo one; sleep 0.3; echo two'")
    assert shell("wherry logs -f follow").out == "one\ntwo"


def test_a_detached_terminal_session_is_attached_and_started_again(engine: Daemon, clean: None) -> None:
    engine.run("run", "-d", "-it", "--name", "later", "bb", "sh")
    with Terminal(engine, "attach", "later") as terminal:
        terminal.type("echo $((20+22))\n")
        terminal.expect("42")
        terminal.type("exit\n")
        assert terminal.code() == 0
    with Terminal(engine, "start", "-a", "-i", "later") as terminal:
        terminal.type("echo $((21*2)) again\n")
        terminal.expect("42 again")
        terminal.type("exit\n")
        assert terminal.code() == 0


def test_cp_of_a_folders_contents_there_and_back(shell: Shell, tmp_path: Path, clean: None) -> None:
    (tmp_path / "dummy").mkdir()
    (tmp_path / "dummy" / "test.txt").write_text("copied")
    shell("wherry run -d --name boring_vaughan bb sleep 1000")
    assert shell("wherry cp dummy/. boring_vaughan:/test").code == 0
    assert shell("wherry exec boring_vaughan cat /test/test.txt").out == "copied"
    (tmp_path / "dummy" / "test.txt").unlink()
    assert shell("wherry cp boring_vaughan:/test dummy").code == 0
    assert (tmp_path / "dummy" / "test" / "test.txt").read_text() == "copied"


def test_an_image_is_built_tagged_looked_at_and_removed(shell: Shell, tmp_path: Path, clean: None) -> None:
    (tmp_path / "Dockerfile").write_text("FROM bb\nCMD echo built\n")
    ident = shell("wherry build -q .").out
    assert "Successfully built" in shell("wherry build .").out
    assert shell(f"wherry run --rm {ident}").out == "built"
    assert shell("wherry build -t node:14 .").code == 0
    assert shell("wherry run --rm node:14").out == "built"
    assert shell(f"wherry tag {ident} other/name:tag").code == 0
    assert "node" in shell("wherry images").out
    assert shell("wherry image inspect node:14 -f {{.RootFS.Layers}}").out.startswith("[sha256:")
    assert '"sha256:' in shell("wherry image inspect node:14 | grep -A 3 Layers").out
    assert "Untagged: node:14" in shell("wherry rmi node:14 other/name:tag").out


def test_an_image_in_use_is_removed_only_after_its_containers(shell: Shell, tmp_path: Path, clean: None) -> None:
    (tmp_path / "Dockerfile").write_text("FROM bb\nLABEL a=b\nCMD sleep 1000\n")
    shell("wherry build -t busy . && wherry run -d --name busybody busy")
    assert shell("wherry rmi busy").code == 1
    shell("wherry stop -t 0 busybody; wherry rm busybody")
    assert "Deleted: sha256:" in shell("wherry rmi busy").out


def test_dangling_images_are_pruned_and_so_is_everything_unused(shell: Shell, tmp_path: Path, clean: None) -> None:
    for number in (1, 2):
        (tmp_path / "Dockerfile").write_text(f"FROM bb\nLABEL number={number}\n")
        shell("wherry build -t dangle .")
    assert "<none>" in shell("wherry images").out
    assert "deleted: sha256:" in shell("wherry image prune -f").out
    assert "<none>" not in shell("wherry images").out
    shell("wherry run bb true")
    assert "Deleted Containers:" in shell("echo y | wherry prune").out
    assert shell("wherry ps -aq").out == ""
    shell("wherry rmi dangle")


def test_commit_changes_the_command(shell: Shell, clean: None) -> None:
    shell("wherry run --name web bb true")
    assert shell("wherry commit --change='CMD apachectl -D FOREGROUND' web imagename:tag").out.startswith("sha256:")
    assert json.loads(shell("wherry image inspect imagename:tag -f '{{json .Config.Cmd}}'").out) == [
        "/bin/sh",
        "-c",
        "apachectl -D FOREGROUND",
    ]
    missing = shell("wherry commit --change='CMD apachectl -D FORGROUND' imagename:tag")
    assert (missing.code, "No such container: imagename:tag" in missing.err) == (1, True)
    shell("wherry rm web; wherry rmi imagename:tag")


def test_export_makes_an_archive_and_import_an_image_of_it(shell: Shell, clean: None) -> None:
    shell("wherry run --name box bb sh -c 'echo kept > /kept'")
    shell("wherry export box > box.tar")
    assert shell("wherry import box.tar boxed:1").out.startswith("sha256:")
    assert shell("wherry run --rm boxed:1 cat /kept").out == "kept"
    shell("wherry rmi boxed:1")


def test_ports_are_published_by_number_and_all_exposed_ones_at_random(shell: Shell, tmp_path: Path, clean: None) -> None:
    (tmp_path / "Dockerfile").write_text("FROM bb\nRUN echo page > /tmp/index.html\nEXPOSE 80\nCMD httpd -f -h /tmp\n")
    shell("wherry build -t server .")
    shell("wherry run -d --name unpublished server")
    assert shell("wherry port unpublished").out == ""
    shell("wherry run -d --name fixed -p 8080:80 server && wherry run -d --name free -P server")
    free = shell("wherry port free 80").out.splitlines()[0].rpartition(":")[2]
    for port in ("8080", free):
        until(partial(answers, port))
        assert page(port) == "page\n"
    assert "0.0.0.0:8080->80/tcp" in shell("wherry ps").out
    shell("wherry rm -f unpublished fixed free; wherry rmi server")


def test_bind_mounts_and_volumes_keep_what_containers_write(shell: Shell, tmp_path: Path, clean: None) -> None:
    shell("wherry run --rm -v $PWD/shared:/data bb sh -c 'echo x > /data/x'")
    assert (tmp_path / "shared" / "x").read_text() == "x\n"
    shell("wherry volume create store; wherry run --rm -v store:/data bb sh -c 'echo y > /data/y'")
    assert shell("wherry run --rm -v store:/data bb cat /data/y").out == "y"
    assert Path(json.loads(shell("wherry volume inspect store").out)[0]["Mountpoint"], "y").exists()
    shell("wherry volume rm store")


def test_the_networks_bridge_host_and_none(shell: Shell, clean: None) -> None:
    names = shell("wherry network ls --format '{{.Name}} {{.Driver}}'").out.splitlines()
    assert {"bridge bridge", "host host", "none null"} <= set(names)
    assert "eth0" in shell("wherry run --rm bb ip addr").out
    assert "eth0" not in shell("wherry run --rm --network none bb ip addr").out
    assert shell("wherry run --rm --network host bb readlink /proc/self/ns/net").out == str(Path("/proc/self/ns/net").readlink())


def test_a_link_is_a_line_of_etc_hosts(shell: Shell, clean: None) -> None:
    shell("wherry run -d --name database bb sleep 1000")
    address = shell("wherry inspect database -f {{.NetworkSettings.IPAddress}}").out
    hosts = shell("wherry run --rm --link database:db bb cat /etc/hosts").out
    line = next(line.split() for line in hosts.splitlines() if line.startswith(f"{address}\t"))
    assert {"db", "database"} <= set(line[1:])
    assert "1 packets received" in shell("wherry run --rm --link database bb ping -c 1 database").out


def test_slashes_are_no_comment_and_the_message_says_what_is(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("// a note\nFROM bb\n")
    assert "a comment starts with '#'" in shell("wherry build .").err


def test_entrypoint_and_cmd_together_and_files_by_add_and_copy(shell: Shell, tmp_path: Path, clean: None) -> None:
    for folder, name in (("conf", "ports.conf"), ("html", "index.html")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(folder)
    (tmp_path / ".dockerignore").write_text("html/secret\n")
    (tmp_path / "html" / "secret").write_text("x")
    text = APACHE.replace("FROM debian", "FROM bb").replace("apt update && apt install -y apache2", "true").replace("apachectl", "echo")
    (tmp_path / "Dockerfile").write_text(text)
    shell("wherry build -t both .")
    assert shell("wherry run --rm both").out == "-D FOREGROUND"
    assert (
        shell("wherry run --rm --entrypoint ls both /etc/apache2 /var/www/html").out
        == "/etc/apache2:\nports.conf\n\n/var/www/html:\nindex.html"
    )
    shell("wherry rmi both")


def test_push_and_pull_by_host_and_name(shell: Shell, tmp_path: Path, clean: None) -> None:
    with registry(tmp_path) as hub:
        name = f"{hub.address}/user_name/repository_name"
        assert "digest: sha256:" in shell(f"wherry tag bb {name} && wherry push {name}").out
        shell(f"wherry rmi {name}")
        assert shell(f"wherry run --rm {name} echo pulled").out.endswith("pulled")
        assert "Image is up to date" in shell(f"wherry pull {name}").out
        shell(f"wherry rmi {name}")


def test_help_of_every_command_of_the_notes(shell: Shell) -> None:
    words = "build ps run start stop attach logs rm images rmi image cp push pull login logout tag create commit export import inspect"
    for word in words.split():
        shown = shell(f"wherry {word} --help")
        assert (shown.code, "Usage:" in shown.out) == (0, True), word


# --- the two applications, on images made from the host's package sources


def test_the_node_application(engine: Daemon, shell: Shell, base: Callable[[str], None], tmp_path: Path, clean: None) -> None:
    base("node")
    shutil.copytree(DEMO, tmp_path, dirs_exist_ok=True)
    (tmp_path / "Dockerfile").write_text(NODE)
    assert shell("wherry build -t goals .").code == 0
    shell("wherry run -d --name node-project -p 3000:80 goals")
    until(lambda: answers("3000"))
    assert "Learn Docker!" in page("3000")
    shell("wherry stop -t 1 node-project && wherry start node-project")
    until(lambda: answers("3000"))
    server = tmp_path / "server.js"
    server.write_text(server.read_text().replace("Learn Docker!", "Learn more!"))
    assert "Learn Docker!" in page("3000")
    assert shell("wherry build -t goals .").out.count("Using cache") == 3
    shell("wherry rm -f node-project; wherry run -d --rm --name node-project -p 3000:80 goals")
    until(lambda: answers("3000"))
    assert "Learn more!" in page("3000")
    shell("wherry stop -t 1 node-project; wherry rmi goals")
    with Terminal(engine, "run", "-it", "--rm", "node") as terminal:
        terminal.expect("> ", seconds=30)
        terminal.type("6 * 7\r")
        terminal.expect("42")
        terminal.type(".exit\r")
        assert terminal.code() == 0


def test_the_apache_image(shell: Shell, base: Callable[[str], None], tmp_path: Path, clean: None) -> None:
    base("debian")
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "ports.conf").write_text("Listen 8080\n")
    (tmp_path / "html").mkdir()
    (tmp_path / "html" / "index.html").write_text("<h1>It works as written</h1>\n")
    (tmp_path / "Dockerfile").write_text(APACHE)
    built = shell("wherry build -t web .")
    assert built.code == 0, built.err
    shell("wherry run -d --name web -P web")
    port = shell("wherry port web 8080").out.splitlines()[0].rpartition(":")[2]
    until(lambda: answers(port))
    assert "It works as written" in page(port)
    assert shlex.split(shell("wherry top web -o pid,comm").out).count("apache2") >= 2
    shell("wherry rm -f web; wherry rmi web")
