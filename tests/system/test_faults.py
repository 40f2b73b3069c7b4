"""kill -9 at every stage: afterwards each thing is as before the operation or as after it, what runs is known, and nothing is left over."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import pytest
from tests.conftest import WHERRY, Daemon, busybox_tar
from tests.system import accounting, daemons
from tests.system.accounting import tar_of
from tests.system.ports import free_ports
from tests.system.stopwatch import Stopwatch
from tests.system.talk import ask
from tests.system.waiting import until

pytestmark = [pytest.mark.root, pytest.mark.slow]
STRIDE = int(os.environ.get("WHERRY_TEST_STRIDE", "0"))  # 1: every stage; 0: a few of each operation, so that the tests stay quick
SAMPLES = (3, 10, 21, 36)
LIMIT = 400


@pytest.fixture(scope="module")
def mortal() -> Iterator[Daemon]:
    """A daemon that dies when told to, with a container ``keeper`` that must live through everything."""
    with daemons.mortal() as daemon:
        daemon.run("run", "-d", "--name", "keeper", "bb", "sleep", "100000")
        daemon.run(
            "build",
            "-q",
            "-t",
            "newloaded",
            "-",
            stdin=tar_of({"Dockerfile": b"FROM scratch\nADD root.tar /\n", "root.tar": busybox_tar()}),
        )
        daemon.run("save", "-o", str(daemon.root / "saved.tar"), "newloaded")
        _remove_all(daemon)
        yield daemon


@dataclass(frozen=True, kw_only=True)
class Operation:
    """``check``: what must hold after a death in the midst and a new start; ``undo`` must always succeed and leave nothing."""

    act: Callable[[Daemon], object]
    check: Callable[[Daemon], None]
    undo: Callable[[Daemon], object]
    prepare: Callable[[Daemon], object] = lambda daemon: None


def _quiet(*arguments: str, stdin: bytes | None = None) -> Callable[[Daemon], object]:
    return lambda daemon: daemon.run(*arguments, stdin=stdin, check=False)


def _remove_all(daemon: Daemon) -> None:
    for one in ask(daemon, "GET", "/containers/json?all=1")[1]:
        if one["Names"] != ["/keeper"]:
            assert ask(daemon, "DELETE", f"/containers/{one['Id']}?force=1&v=1")[0] == 204, one
    for one in ask(daemon, "GET", "/images/json")[1]:
        for tag in one["RepoTags"] or ():
            if tag.startswith("new"):
                assert ask(daemon, "DELETE", f"/images/{tag}?force=1")[0] == 200, one
    for path in ("/images/prune", "/build/prune?all=1", '/volumes/prune?filters={"all":["1"]}', "/networks/prune"):
        assert ask(daemon, "POST", path)[0] == 200, path


def _states_are_true(daemon: Daemon) -> None:
    """What is said to run does, what is said not to does not, and everything can be inspected."""
    running = set()
    for one in ask(daemon, "GET", "/containers/json?all=1")[1]:
        state = ask(daemon, "GET", f"/containers/{one['Id']}/json")[1]["State"]
        assert state["Status"] in ("created", "running", "paused", "exited"), state
        assert state["Running"] == (state["Pid"] > 0 and (accounting.PROC / str(state["Pid"])).exists()), state
        if state["Running"]:
            running.add(one["Id"])
    assert daemon.run("exec", "keeper", "true").code == 0
    groups = {os.path.basename(key.split()[1]) for key in accounting.count(daemon) if key.startswith("cgroup ")}
    assert groups == running


def _image_is_whole_or_absent(daemon: Daemon) -> None:
    tags = [tag for one in ask(daemon, "GET", "/images/json")[1] for tag in one["RepoTags"] or () if tag.startswith("new")]
    for reference in tags:
        assert daemon.out("run", "--rm", "--net", "none", "--entrypoint", "/bin/echo", reference, "whole") == "whole"
    assert daemon.out("system", "fsck", "--quick") == "Nothing is wrong."


DOCKERFILE = b"FROM bb\nRUN echo one > /one\nCOPY Dockerfile /two\n"
OPERATIONS = {
    "create": Operation(act=_quiet("create", "--name", "new", "-v", "/v", "bb", "true"), check=_states_are_true, undo=_remove_all),
    "run": Operation(act=_quiet("run", "-d", "--name", "new", "-p", "80", "bb", "sleep", "1000"), check=_states_are_true, undo=_remove_all),
    "exec": Operation(act=_quiet("exec", "keeper", "true"), check=_states_are_true, undo=_remove_all),
    "stop": Operation(
        prepare=_quiet("run", "-d", "--name", "new", "-p", "80", "bb", "sleep", "1000"),
        act=_quiet("stop", "-t", "0", "new"),
        check=_states_are_true,
        undo=_remove_all,
    ),
    "rm": Operation(
        prepare=_quiet("run", "-d", "--name", "new", "-p", "80", "-v", "/v", "bb", "sleep", "1000"),
        act=_quiet("rm", "-fv", "new"),
        check=_states_are_true,
        undo=_remove_all,
    ),
    "build": Operation(
        act=_quiet("build", "-q", "-t", "new", "-", stdin=tar_of({"Dockerfile": DOCKERFILE})),
        check=_image_is_whole_or_absent,
        undo=_remove_all,
    ),
    "import": Operation(act=_quiet("import", "-", "new", stdin=busybox_tar()), check=_image_is_whole_or_absent, undo=_remove_all),
    "load": Operation(
        act=lambda daemon: daemon.run("load", "-i", f"{daemon.root}/saved.tar", check=False),
        check=_image_is_whole_or_absent,
        undo=_remove_all,
    ),
    "commit": Operation(
        prepare=_quiet("run", "--name", "base", "--net", "none", "bb", "touch", "/file"),
        act=_quiet("commit", "base", "new"),
        check=_image_is_whole_or_absent,
        undo=_remove_all,
    ),
    "rmi": Operation(
        prepare=lambda daemon: daemon.run("import", "-", "new", stdin=busybox_tar()),
        act=_quiet("rmi", "new"),
        check=_image_is_whole_or_absent,
        undo=_remove_all,
    ),
    "tag": Operation(act=_quiet("tag", "bb", "newtag"), check=_image_is_whole_or_absent, undo=_remove_all),
    "prune": Operation(
        prepare=lambda daemon: (
            daemon.run("build", "-q", "-t", "new", "-", stdin=tar_of({"Dockerfile": DOCKERFILE})),
            daemon.run("run", "--name", "one", "--net", "none", "-v", "/v", "new", "true"),
        ),
        act=_quiet("system", "prune", "--all", "--volumes", "--force"),
        check=_image_is_whole_or_absent,
        undo=_remove_all,
    ),
    "rename": Operation(
        prepare=_quiet("create", "--name", "before", "bb", "true"),
        act=_quiet("rename", "before", "after"),
        check=lambda daemon: _check_one_of(daemon, {"before", "after"}),
        undo=_remove_all,
    ),
    "steer": Operation(
        prepare=_quiet("run", "-d", "--name", "new", "-p", "80", "bb", "sleep", "1000"),
        act=lambda daemon: [
            daemon.run(*words, check=False)
            for words in (
                ("update", "--memory", "64m", "--restart", "on-failure", "new"),
                ("pause", "new"),
                ("unpause", "new"),
                ("cp", WHERRY, "new:/root/"),
                ("restart", "-t", "0", "new"),
            )
        ],
        check=_states_are_true,
        undo=_remove_all,
    ),
    "network": Operation(
        prepare=_quiet("network", "create", "old"),
        act=lambda daemon: (daemon.run("network", "rm", "old", check=False), daemon.run("network", "create", "new", check=False)),
        check=_states_are_true,
        undo=_remove_all,
    ),
    "volume": Operation(
        prepare=_quiet("volume", "create", "old"),
        act=lambda daemon: (daemon.run("volume", "rm", "old", check=False), daemon.run("volume", "create", "new", check=False)),
        check=_states_are_true,
        undo=_remove_all,
    ),
}


def _check_one_of(daemon: Daemon, names: set[str]) -> None:
    found = {one["Names"][0][1:] for one in ask(daemon, "GET", "/containers/json?all=1")[1]} & names
    assert len(found) == 1


def _standing(daemon: Daemon) -> Counter[str]:
    """What must be the same before and after; descriptors are those of another process, and not compared."""
    return Counter({key: number for key, number in accounting.count(daemon).items() if " descriptor " not in key})


@pytest.mark.timeout(600)  # each death is a start of the daemon, and a look at all that it left
@pytest.mark.parametrize("name", OPERATIONS)
def test_death_at_any_stage_leaves_before_or_after(mortal: Daemon, name: str) -> None:
    operation = OPERATIONS[name]
    kill, at = mortal.root / "kill", mortal.root / "kill.at"
    operation.prepare(mortal)
    operation.act(mortal)
    operation.undo(mortal)
    accounting.baseline(mortal)
    before = _standing(mortal)
    keeper = ask(mortal, "GET", "/containers/keeper/json")[1]["State"]["Pid"]
    for stage in range(1, LIMIT, STRIDE) if STRIDE else SAMPLES:
        operation.prepare(mortal)
        kill.write_text(str(stage))
        operation.act(mortal)
        kill.unlink()
        assert mortal.process is not None
        where = f"after stage {stage}"
        if died := at.exists():
            mortal.process.wait(timeout=60)
            where = f"stage {stage}: {at.read_text()}"
            at.unlink()
            mortal.start()
        try:
            state = ask(mortal, "GET", "/containers/keeper/json")[1]["State"]
            assert (state["Pid"], state["Status"]) == (keeper, "running")
            operation.check(mortal)
            operation.undo(mortal)
            left = accounting.settled(before, lambda: _standing(mortal))
            assert left == {}
        except AssertionError as error:
            raise AssertionError(f"{name}, {where}: {error}\n{mortal.log[-2000:]}") from error
        if not died:
            break


def test_a_killed_zygote_is_replaced_and_running_containers_do_not_notice(own_engine: Daemon) -> None:
    engine = own_engine
    engine.run("run", "-d", "--name", "steady", "bb", "sleep", "1000")
    pid = engine.out("inspect", "steady", "-f", "{{.State.Pid}}")
    before = accounting.baseline(engine)
    with ThreadPoolExecutor(4) as pool:
        flying = [pool.submit(engine.run, "run", "--rm", "bb", "true", check=False) for _ in range(12)]
        for _ in range(3):
            until(lambda: _zygotes(engine))
            for zygote in _zygotes(engine):
                os.kill(zygote, signal.SIGKILL)
            with Stopwatch() as watch:
                assert engine.run("run", "--rm", "bb", "true", check=False).code in (0, 125)
            assert watch.seconds < 3
        codes = [one.result().code for one in flying]
    assert set(codes) <= {0, 125}
    assert engine.out("inspect", "steady", "-f", "{{.State.Pid}} {{.State.Status}}") == f"{pid} running"
    assert engine.run("exec", "steady", "true").code == 0
    engine.run("run", "--rm", "bb", "true")
    left = {key: more for key, more in accounting.settled(before, lambda: accounting.count(engine)).items() if " descriptor " not in key}
    assert left == {}


@pytest.mark.parametrize("options", [(), ("-u", "al"), ("--init",), ("--pid", "host"), ("-t",)])
def test_a_container_ends_with_its_monitor_and_leaves_nothing(own_engine: Daemon, options: tuple[str, ...]) -> None:
    engine = own_engine
    engine.run("run", "--rm", "bb", "true")
    before = accounting.baseline(engine)
    engine.run("run", "-d", "--name", "orphan", "-p", "80", *options, "bb", "sh", "-c", "sleep 1000 & sleep 1001")
    pid = int(engine.out("inspect", "orphan", "-f", "{{.State.Pid}}"))
    os.kill(_parent(pid), signal.SIGKILL)
    assert engine.out("wait", "orphan") == "137"
    assert (
        engine.out("inspect", "orphan", "-f", "{{.State.Status}} {{.State.ExitCode}} {{.State.Error}}")
        == "exited 137 the monitor was killed"
    )
    engine.run("start", "orphan")
    assert engine.run("exec", "orphan", "true").code == 0
    engine.run("rm", "-f", "orphan")
    assert accounting.settled(before, lambda: accounting.count(engine)) == {}


def test_monitors_that_die_while_they_start_containers_leave_nothing(own_engine: Daemon) -> None:
    engine = own_engine
    engine.run("run", "--rm", "-p", "80", "bb", "true")
    before = accounting.baseline(engine)
    keep = {engine.process.pid if engine.process else 0, *_zygotes(engine)}
    failed = 0
    killed: set[int] = set()
    for number in range(24):
        made = ask(engine, "POST", f"/containers/create?name=one{number}", {"Image": "bb", "Cmd": ["sleep", "9"]})
        assert made[0] == 201, made
        with ThreadPoolExecutor(1) as pool:
            flying = pool.submit(ask, engine, "POST", f"/containers/one{number}/start")
            time.sleep(number % 12 / 1000)  # another stage of the start each time
            for pid in accounting.processes(engine):
                if pid not in keep:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                        killed.add(pid)
            failed += flying.result()[0] != 204
        assert ask(engine, "DELETE", f"/containers/one{number}?force=1")[0] == 204
        keep |= set(_zygotes(engine))
    assert failed
    until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in killed))  # what is not dead yet may be asked
    engine.run("run", "--rm", "bb", "true")
    left = {key: more for key, more in accounting.settled(before, lambda: accounting.count(engine)).items() if " descriptor " not in key}
    assert left == {}


def test_after_the_death_of_everything_each_end_is_known_and_policies_act_once(own_engine: Daemon) -> None:
    engine = own_engine
    engine.run("run", "-d", "--name", "once", "bb", "sh", "-c", "test -e /ran && sleep 1000; touch /ran; exit 3")
    assert engine.out("wait", "once") == "3"
    engine.run("start", "once")  # its exit record is still that of the first run
    engine.run("run", "-d", "--name", "always", "--restart", "always", "-p", "80", "bb", "sleep", "1000")
    engine.run("run", "-d", "--name", "frozen", "bb", "sleep", "1000")
    engine.run("pause", "frozen")
    for pid in accounting.processes(engine):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert engine.process is not None
    engine.process.wait()
    engine.start()
    until(lambda: engine.out("inspect", "always", "-f", "{{.State.Status}}") == "running")
    assert engine.out("inspect", "once", "frozen", "-f", "{{.State.Status}} {{.State.ExitCode}}") == "exited 137\nexited 137"
    sleeps = [line for line in engine.out("top", "always").split("\n") if "sleep" in line]
    assert len(sleeps) == 1
    groups = [key for key in accounting.count(engine) if key.startswith("cgroup ") and "/pids/" in key]
    assert len(groups) <= 1


def test_what_runs_without_a_record_is_ended_when_the_data_root_was_erased(own_engine: Daemon) -> None:
    engine = own_engine
    engine.run("run", "-d", "--name", "lost", "--network", "bridge", "-p", "80", "bb", "sleep", "1000")
    pid = engine.out("inspect", "lost", "-f", "{{.State.Pid}}")
    engine.kill()
    shutil.rmtree(engine.root / "data")
    engine.start()
    assert not (accounting.PROC / pid).exists()
    engine.run("import", "-", "bb", stdin=busybox_tar())
    assert engine.out("run", "--rm", "bb", "echo", "anew") == "anew"
    until(lambda: not [key for key in accounting.count(engine) if key.startswith(("cgroup", "interface of a container"))])


def test_parallel_creates_of_one_name_have_one_winner(own_engine: Daemon) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda _: ask(own_engine, "POST", "/containers/create?name=same", {"Image": "bb", "Cmd": ["true"]})[0], range(50))
        )
    assert sorted(answers) == [201] + [409] * 49
    assert own_engine.out("ps", "-aq").count("\n") == 0


def test_parallel_publishers_of_one_port_have_one_winner_and_random_ports_differ(own_engine: Daemon) -> None:
    engine = own_engine
    port = free_ports(1)
    with ThreadPoolExecutor(4) as pool:
        codes = list(pool.map(lambda n: engine.run("run", "-d", "-p", f"{port}:80", "bb", "sleep", "1000", check=False).code, range(8)))
        list(pool.map(lambda n: engine.run("run", "-d", "-p", "80", "bb", "sleep", "1000"), range(12)))
    assert sorted(codes) == [0] + [125] * 7
    shown = engine.out("ps", "--format", "{{.Ports}}")
    ports = re.findall(r"0\.0\.0\.0:(\d+)->", shown)
    assert len(ports) == len(set(ports)) == 13


def test_an_image_cannot_go_while_containers_are_made_of_it(own_engine: Daemon) -> None:
    engine = own_engine
    engine.run("import", "-", "prey", stdin=busybox_tar())
    with ThreadPoolExecutor(3) as pool:
        runs = [
            pool.submit(engine.run, "run", "--rm", "--pull", "never", "--net", "none", "prey", "echo", "whole", check=False)
            for _ in range(12)
        ]
        for _ in range(6):
            engine.run("rmi", "prey", check=False)
            engine.run("import", "-", "prey", stdin=busybox_tar(), check=False)
        for one in runs:
            result = one.result()
            assert result.out == "whole\n" or "no such image" in result.err.lower(), result


def test_damaged_files_of_the_data_root_give_clear_errors_and_the_rest_works(own_engine: Daemon) -> None:
    engine = own_engine
    engine.run("import", "-", "broken", stdin=tar_of({"file": b"x" * 5000}))
    config = engine.out("inspect", "broken", "-f", "{{.Id}}").partition(":")[2]
    engine.run("import", "-", "harmed", stdin=tar_of({"file": b"x" * (4 << 20)}))
    engine.run("tag", "broken", "localhost:1/broken")
    engine.run("create", "--name", "headless", "bb", "true")
    ident = engine.out("inspect", "headless", "-f", "{{.Id}}")
    engine.kill()
    blob = engine.root / "data/content/sha256" / config
    blob.write_bytes(blob.read_bytes()[:20])
    with next(path for path in (engine.root / "data").rglob("*") if path.is_file() and path.stat().st_size >= 4 << 20).open("r+b") as layer:
        layer.seek(2 << 20)
        layer.write(b"y")
    shutil.rmtree(engine.root / "data/containers" / ident)
    (engine.root / "data/staging/junk").mkdir()
    (engine.root / "data/staging/junk/file").write_text("x")
    with (engine.root / "run/sandboxes/ledger").open("a") as ledger:
        ledger.write("+{")
    engine.start()
    assert engine.out("run", "--rm", "bb", "echo", "works") == "works"
    assert "bb" in engine.out("images")
    for arguments, code in ((("run", "--rm", "broken", "x"), 125), (("save", "broken"), 1), (("push", "localhost:1/broken"), 1)):
        result = engine.run(*arguments, check=False)
        assert result.code == code
        assert f"content sha256:{config} is damaged" in result.out + result.err
        assert "Traceback" not in result.err
    cut = engine.run("save", "-o", str(engine.root / "cut.tar"), "harmed", check=False)
    assert (cut.code, (engine.root / "cut.tar").exists()) == (1, False)
    assert re.fullmatch(r"Error response from daemon: layer sha256:\S+ can't be read back: its bytes have digest sha256:\S+\n", cut.err)
    engine.run("rmi", "-f", "localhost:1/broken", check=False)
    engine.run("rmi", "-f", "broken", check=False)
    engine.run("start", "headless", check=False)
    engine.run("rm", "-f", "headless")
    assert engine.out("ps", "-aq") == ""


def _zygotes(engine: Daemon) -> list[int]:
    return [pid for pid, name in accounting.processes(engine).items() if name == "wherry-zygote"]


def _parent(pid: int) -> int:
    return int((accounting.PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
