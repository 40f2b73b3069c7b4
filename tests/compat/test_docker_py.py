"""docker-py, unchanged, against a real daemon: what programs and test suites written for Docker do."""

from __future__ import annotations

import contextlib
import io
import socket
import tarfile
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any

import docker
import pytest
from docker.errors import APIError, BuildError, ContainerError, ImageNotFound, NotFound
from docker.types import Healthcheck, LogConfig, Mount, Ulimit
from tests.conftest import Daemon
from tests.system.accounting import tar_of
from tests.system.waiting import until

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def client(engine: Daemon) -> Iterator[Any]:
    made = docker.DockerClient(base_url=engine.host, version="auto")
    yield made
    made.close()


@pytest.fixture
def sleeper(client: Any) -> Iterator[Any]:
    container = client.containers.run("bb", "sleep 1000", detach=True)
    yield container
    container.remove(force=True, v=True)


@contextlib.contextmanager
def stream_socket(file: Any) -> Iterator[socket.socket]:
    """The socket under the file that docker-py hands out; closing the one without the other leaves a descriptor to the collector."""
    with file, file._sock as raw:
        yield raw


def test_the_engine_tells_who_it_is(client: Any) -> None:
    assert client.ping() is True
    assert client.version()["ApiVersion"] == "1.51"
    assert client.info()["OSType"] == "linux"
    assert {"LayersSize", "Images", "Containers", "Volumes"} <= set(client.df())


def test_run_returns_what_the_program_wrote(client: Any) -> None:
    assert client.containers.run("bb", ["echo", "hello"], remove=True) == b"hello\n"
    both = client.containers.run("bb", ["sh", "-c", "echo out; echo err >&2"], stdout=True, stderr=True, remove=True)
    assert sorted(both.split()) == [b"err", b"out"]


def test_a_program_that_fails_raises_with_its_code_and_its_errors(client: Any) -> None:
    with pytest.raises(ContainerError) as caught:
        client.containers.run("bb", ["sh", "-c", "echo why >&2; exit 9"], remove=True)
    assert caught.value.exit_status == 9
    assert caught.value.stderr == b"why\n"


def test_a_command_that_is_not_there_is_an_api_error(client: Any) -> None:
    with pytest.raises(APIError) as caught:
        client.containers.run("bb", "nosuchcmd", name="py-absent")
    assert 'exec: "nosuchcmd": executable file not found in $PATH' in caught.value.explanation
    container = client.containers.get("py-absent")
    assert (container.status, container.attrs["State"]["ExitCode"]) == ("created", 127)
    container.remove()


def test_missing_things_are_not_found(client: Any) -> None:
    for call in (
        lambda: client.containers.get("nosuch"),
        lambda: client.networks.get("nosuch"),
        lambda: client.volumes.get("nosuch"),
    ):
        with pytest.raises(NotFound):
            call()
    with pytest.raises(ImageNotFound):
        client.images.get("nosuch")


def test_a_wait_has_the_exit_code_and_no_error(client: Any) -> None:
    container = client.containers.create("bb", ["sh", "-c", "exit 5"])
    container.start()
    assert container.wait(timeout=60) == {"StatusCode": 5}
    assert container.wait(timeout=20, condition="not-running") == {"StatusCode": 5}
    container.remove()


def test_logs_by_stream_tail_and_time(client: Any) -> None:
    container = client.containers.run("bb", ["sh", "-c", "echo a; echo b; echo c >&2"], detach=True)
    container.wait(timeout=60)
    assert container.logs(stderr=False) == b"a\nb\n"
    assert container.logs(stdout=False) == b"c\n"
    assert container.logs(tail=1) == b"c\n"
    assert container.logs(stderr=False, tail=1) == b""  # the last line is counted before streams are chosen, as with Docker
    assert container.logs(stderr=False, timestamps=True).count(b"Z a\n") == 1
    assert container.logs(since=2_000_000_000) == b""
    container.remove()


def test_following_logs_ends_with_the_program(client: Any) -> None:
    container = client.containers.run("bb", ["sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.1; done"], detach=True)
    assert b"".join(container.logs(stream=True, follow=True)) == b"1\n2\n3\n"
    container.wait(timeout=60)
    container.remove()


def test_exec_gives_code_and_output(sleeper: Any) -> None:
    assert sleeper.exec_run(["sh", "-c", "echo $A; exit 3"], environment={"A": "x"}) == (3, b"x\n")
    assert sleeper.exec_run("id -u", user="al").output == b"1000\n"
    assert sleeper.exec_run(["sh", "-c", "pwd"], workdir="/tmp").output == b"/tmp\n"
    assert sleeper.exec_run("nosuchcmd").exit_code == 127
    code, (out, err) = sleeper.exec_run(["sh", "-c", "echo o; echo e >&2"], demux=True)
    assert (code, out, err) == (0, b"o\n", b"e\n")


def test_exec_in_a_terminal_merges_streams(sleeper: Any) -> None:
    assert sleeper.exec_run(["sh", "-c", "test -t 0 && echo tty; echo e >&2"], tty=True).output == b"tty\r\ne\r\n"


def test_the_start_of_an_exec_says_whether_its_stream_has_frames(client: Any, sleeper: Any) -> None:
    command = ["sh", "-c", "test -t 0 && echo tty; echo o; echo e >&2"]
    in_terminal = client.api.exec_create(sleeper.id, command, tty=True)
    assert client.api.exec_start(in_terminal, demux=True) == (b"tty\r\no\r\ne\r\n", None)
    without = client.api.exec_create(sleeper.id, "echo o")
    assert client.api.exec_start(without, tty=True) == b"o\n"
    missing = client.api.exec_create(sleeper.id, "nosuchcmd", tty=True)
    assert b"executable file not found" in client.api.exec_start(missing, demux=True)[0]


def test_the_input_of_an_exec_is_half_closed(client: Any, sleeper: Any) -> None:
    ident = client.api.exec_create(sleeper.id, "wc -c", stdin=True)["Id"]
    with stream_socket(client.api.exec_start(ident, socket=True)) as raw:
        raw.sendall(b"12345")
        raw.shutdown(socket.SHUT_WR)
        data = b""
        while chunk := raw.recv(4096):
            data += chunk
    assert data[8:] == b"5\n"
    assert client.api.exec_inspect(ident)["ExitCode"] == 0


def test_attach_carries_input_and_output(client: Any) -> None:
    container = client.containers.create("bb", "cat", stdin_open=True)
    container.attrs["Config"]["StdinOnce"] = True
    with stream_socket(container.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})) as raw:
        container.start()
        raw.sendall(b"hello\n")
        assert raw.recv(4096)[8:] == b"hello\n"
    container.remove(force=True)


def test_files_go_in_and_out(sleeper: Any) -> None:
    assert sleeper.put_archive("/tmp", tar_of({"a.txt": b"content"}))
    chunks, facts = sleeper.get_archive("/tmp/a.txt")
    assert (facts["name"], facts["size"], facts["linkTarget"]) == ("a.txt", 7, "")
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
        member = tar.extractfile("a.txt")
        assert member is not None
        assert member.read() == b"content"
    with pytest.raises(NotFound):
        sleeper.get_archive("/nosuch")
    assert {"Path": "/tmp/a.txt", "Kind": 1} in sleeper.diff()


def test_the_life_of_a_container(client: Any, sleeper: Any) -> None:
    sleeper.pause()
    sleeper.reload()
    assert sleeper.status == "paused"
    with pytest.raises(APIError, match="is paused, unpause the container before exec"):
        sleeper.exec_run("true")
    sleeper.unpause()
    sleeper.rename("py-renamed")
    assert client.containers.get("py-renamed").id == sleeper.id
    assert sleeper.top()["Processes"][0][-1] == "sleep 1000"
    sleeper.restart(timeout=0)
    sleeper.reload()
    assert sleeper.status == "running"
    sleeper.kill()
    assert sleeper.wait(timeout=60)["StatusCode"] == 137
    with pytest.raises(APIError) as caught:
        sleeper.kill()
    assert caught.value.status_code == 409


def test_a_running_container_is_removed_only_by_force(sleeper: Any) -> None:
    with pytest.raises(APIError) as caught:
        sleeper.remove()
    assert caught.value.status_code == 409
    assert "container is running: stop the container before removing or force remove" in caught.value.explanation


def test_settings_reach_the_program(client: Any) -> None:
    def run(command: str, **settings: Any) -> str:
        return str(client.containers.run("bb", ["sh", "-c", command], remove=True, **settings).decode().strip())

    assert run("echo $A $PWD", environment=["A=1"], working_dir="/etc") == "1 /etc"
    assert run("id -u; id -g", user="5:6") == "5\n6"
    assert run("hostname", hostname="there") == "there"
    assert run("ulimit -n", ulimits=[Ulimit(name="nofile", soft=77, hard=99)]) == "77"
    assert run("grep CapEff /proc/self/status", cap_drop=["ALL"], cap_add=["NET_BIND_SERVICE"]).endswith("0000000000000400")
    assert run("grep Seccomp: /proc/self/status", security_opt=["seccomp=unconfined"]).endswith("0")
    assert run("touch /x 2>/dev/null || echo ro", read_only=True) == "ro"
    assert "size=1024k" in run("grep ' /t ' /proc/mounts", tmpfs={"/t": "size=1m"})
    assert run("tail -n 2 /etc/hosts | head -n 1", extra_hosts={"other": "1.2.3.4"}) == "1.2.3.4\tother"
    assert run("cat /dev/shm/x 2>/dev/null; grep -c shm /proc/mounts", shm_size="1m") == "1"


def test_limits_are_seen_in_inspect_and_checked(client: Any) -> None:
    container = client.containers.create("bb", "true", mem_limit="32m", nano_cpus=500_000_000, pids_limit=20)
    host = container.attrs["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"], host["PidsLimit"]) == (32 << 20, 64 << 20, 500_000_000, 20)
    container.update(mem_limit="40m", memswap_limit="80m")
    container.reload()
    assert container.attrs["HostConfig"]["Memory"] == 40 << 20
    container.remove()
    with pytest.raises(APIError, match="Minimum memory limit allowed is 6MB"):
        client.containers.create("bb", "true", mem_limit="1m")


def test_out_of_memory_is_told(client: Any) -> None:
    container = client.containers.run("bb", "tail /dev/zero", detach=True, mem_limit="16m", memswap_limit="16m")
    assert container.wait(timeout=60)["StatusCode"] == 137
    container.reload()
    assert container.attrs["State"]["OOMKilled"] is True
    container.remove()


def test_health_is_told_as_it_changes(client: Any) -> None:
    check = Healthcheck(test=["CMD", "test", "-e", "/ok"], interval=100_000_000, retries=1)
    seen: list[str] = []
    events = client.events(decode=True, filters={"event": "health_status"})

    def listen() -> None:
        for event in events:
            seen.append(event["Action"])
            if len(seen) == 2:
                return

    listener = threading.Thread(target=listen)
    listener.start()
    container = client.containers.run("bb", "sleep 1000", detach=True, healthcheck=check)
    try:
        until(lambda: seen)
        container.exec_run("touch /ok")
        until(lambda: len(seen) == 2)
    finally:
        events.close()
        container.remove(force=True)
    listener.join(60)
    assert seen == ["health_status: unhealthy", "health_status: healthy"]


def test_a_published_port_answers(client: Any) -> None:
    container = client.containers.run(
        "bb", ["sh", "-c", "echo page > /tmp/index.html; exec httpd -f -p 80 -h /tmp"], detach=True, ports={"80/tcp": ("127.0.0.1", None)}
    )
    container.reload()
    binding = container.ports["80/tcp"][0]
    assert binding["HostIp"] == "127.0.0.1"

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{binding['HostPort']}/", timeout=20) as page:
                return bool(page.read() == b"page\n")
        except OSError:  # nobody listens yet
            return False

    until(answers)
    container.remove(force=True)


def test_names_resolve_on_a_network_of_ones_own(client: Any) -> None:
    network = client.networks.create("py-net", driver="bridge", labels={"k": "v"})
    with pytest.raises(APIError) as caught:
        client.networks.create("py-net", check_duplicate=True)
    assert caught.value.status_code == 409
    server = client.containers.run("bb", "sleep 1000", detach=True, name="py-server", network="py-net")
    assert b"1 packets received" in client.containers.run("bb", "ping -c 1 -W 5 py-server", remove=True, network="py-net")
    network.reload()
    assert [one.name for one in network.containers] == ["py-server"]
    assert [one.name for one in client.networks.list(filters={"label": "k=v"})] == ["py-net"]
    with pytest.raises(APIError, match="has active endpoints"):
        network.remove()
    network.disconnect(server)
    network.connect(server, aliases=["other"])
    assert client.containers.run("bb", "ping -c 1 -W 5 other", remove=True, network="py-net")
    server.remove(force=True)
    network.remove()


def test_volumes_keep_data_and_are_guarded(client: Any) -> None:
    volume = client.volumes.create("py-vol", labels={"k": "v"})
    assert client.volumes.list(filters={"label": "k=v"}) == [volume]
    client.containers.run("bb", "touch /data/f", remove=True, volumes={"py-vol": {"bind": "/data", "mode": "rw"}})
    mount = Mount(target="/data", source="py-vol", type="volume", read_only=True)
    container = client.containers.create("bb", "ls /data", mounts=[mount])
    (shown,) = container.attrs["Mounts"]
    assert (shown["Type"], shown["Name"], shown["Destination"], shown["RW"]) == ("volume", "py-vol", "/data", False)
    container.start()
    container.wait(timeout=60)
    assert container.logs() == b"f\n"
    with pytest.raises(APIError) as caught:
        volume.remove()
    assert caught.value.status_code == 409
    container.remove()
    volume.remove()


def test_an_image_is_built_tagged_saved_and_removed(client: Any) -> None:
    image, log = client.images.build(
        fileobj=io.BytesIO(b"FROM bb\nARG WHO=me\nRUN echo $WHO > /who\nLABEL l=1\nCMD cat /who\n"),
        tag="py-built:1",
        buildargs={"WHO": "you"},
        rm=True,
    )
    assert "Successfully tagged py-built:1\n" in {line.get("stream") for line in log}
    assert client.containers.run("py-built:1", remove=True) == b"you\n"
    assert image.labels == {"l": "1"}
    assert image.tag("py-built", tag="2")
    image.reload()
    assert sorted(image.tags) == ["py-built:1", "py-built:2"]
    saved = b"".join(image.save(named=True))
    client.images.remove("py-built:1")
    client.images.remove("py-built:2")
    with pytest.raises(ImageNotFound):
        client.images.get("py-built:1")
    (loaded,) = client.images.load(saved)
    assert loaded.id == image.id
    client.images.remove(loaded.id, force=True)


def test_a_step_that_fails_is_a_build_error_with_its_log(client: Any) -> None:
    with pytest.raises(BuildError, match="returned a non-zero code: 3") as caught:
        client.images.build(fileobj=io.BytesIO(b"FROM bb\nRUN echo before; exit 3\n"), rm=True)
    text = "".join(line.get("stream", "") for line in caught.value.build_log)
    assert "before\n" in text
    assert "Removed intermediate container" not in text


def test_a_container_becomes_an_image(client: Any) -> None:
    container = client.containers.run("bb", ["sh", "-c", "echo x > /f"], detach=True)
    container.wait(timeout=60)
    image = container.commit("py-commit", tag="1", changes=["CMD cat /f"], author="me", message="why")
    assert client.containers.run("py-commit:1", remove=True) == b"x\n"
    assert image.history()[0]["Comment"] == "why"
    names = tarfile.open(fileobj=io.BytesIO(b"".join(container.export()))).getnames()
    assert "f" in names
    container.remove()
    client.images.remove("py-commit:1")


def test_events_of_a_run_come_in_dockers_order(client: Any) -> None:
    events = client.events(decode=True, filters={"label": "run=order"})
    client.containers.run("bb", ["sh", "-c", "exit 0"], remove=True, labels={"run": "order"})
    actions: list[str] = []
    for event in events:
        actions.append(event["Action"])
        if event["Action"] == "destroy":
            break
    events.close()
    assert [one for one in actions if one != "attach"] == ["create", "start", "die", "destroy"]


def test_filters_narrow_a_list(client: Any) -> None:
    one = client.containers.create("bb", "true", name="py-filter", labels={"a": "b"})
    assert client.containers.list(all=True, filters={"label": "a=b", "name": "py-filter", "status": "created"}) == [one]
    assert client.containers.list(all=True, filters={"label": "a=c"}) == []
    assert one not in client.containers.list()
    with pytest.raises(APIError, match="invalid filter 'bogus'"):
        client.containers.list(filters={"bogus": "x"})
    one.remove()


def test_a_log_driver_that_is_not_there_is_refused(client: Any) -> None:
    with pytest.raises(APIError, match="error looking up logging plugin nosuch"):
        client.containers.create("bb", "true", log_config=LogConfig(type="nosuch"))


def test_pruning_takes_only_what_is_asked_for(client: Any) -> None:
    one = client.containers.create("bb", "true", labels={"prune": "me"})
    other = client.containers.create("bb", "true")
    assert client.containers.prune(filters={"label": "prune=me"})["ContainersDeleted"] == [one.id]
    other.reload()
    other.remove()


def test_stats_are_those_of_the_container(sleeper: Any) -> None:
    facts = sleeper.stats(stream=False)
    assert facts["pids_stats"]["current"] == 1
    assert facts["memory_stats"]["usage"] > 0
    assert facts["name"] == f"/{sleeper.name}"


def test_clients_of_old_versions_are_served(engine: Daemon) -> None:
    old = docker.DockerClient(base_url=engine.host, version="1.24")
    assert old.containers.run("bb", ["echo", "old"], remove=True) == b"old\n"
    old.close()
