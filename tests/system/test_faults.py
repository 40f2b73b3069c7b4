"""kill -9 at every stage: afterwards each thing is as before the operation or as after it, what runs is known, and nothing is left over."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.conftest import Daemon, busybox_tar, dispose, make_daemon
from tests.system import accounting
from tests.system.accounting import tar_of

pytestmark = [pytest.mark.root, pytest.mark.slow]
STRIDE = int(os.environ.get("WHERRY_TEST_STRIDE", "0"))  # 1: every stage; 0: a few of each operation, so that the tests stay quick
SAMPLES = (2, 5, 9, 14, 20, 27, 35, 44, 60, 80)
LIMIT = 400


@pytest.fixture(scope="module")
def mortal() -> Iterator[Daemon]:
    """A daemon that dies when told to, with a container ``keeper`` that must live through everything."""
    daemon = make_daemon()
    daemon.program = (str(Path(__file__).parent / "mortal_daemon.py"),)
    daemon.daemon_environment = {"WHERRY_TEST_KILL": str(daemon.root / "kill")}
    daemon.start()
    try:
        daemon.run("import", "-", "bb", stdin=busybox_tar())
        daemon.run("run", "-d", "--name", "keeper", "bb", "sleep", "100000")
        daemon.run("save", "-o", str(daemon.root / "saved.tar"), "bb")
        yield daemon
    finally:
        (daemon.root / "kill").unlink(missing_ok=True)
        if daemon.process is None or daemon.process.poll() is not None:
            daemon.start()
        dispose(daemon)


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
    names = [name for name in daemon.out("ps", "-a", "--format", "{{.Names}}").split() if name != "keeper"]
    if names:
        daemon.run("rm", "-fv", *names)
    for reference in daemon.out("images", "-q", "--filter", "reference=new*").split():
        daemon.run("rmi", "-f", reference)
    daemon.run("image", "prune", "-f")
    daemon.run("builder", "prune", "-af")
    daemon.run("volume", "prune", "-af")
    daemon.run("network", "prune", "-f")


def _states_are_true(daemon: Daemon) -> None:
    """What is said to run does, what is said not to does not, and everything can be inspected."""
    for name in daemon.out("ps", "-a", "--format", "{{.Names}}").split():
        state = json.loads(daemon.out("inspect", name, "-f", "{{json .State}}"))
        assert state["Status"] in ("created", "running", "exited"), state
        assert state["Running"] == (state["Pid"] > 0 and os.path.exists(f"/proc/{state['Pid']}")), state
        if state["Running"]:
            assert daemon.run("exec", name, "true").code == 0
    groups = {os.path.basename(key.split()[1]) for key in accounting.count(daemon) if key.startswith("cgroup ")}
    assert groups == set(daemon.out("ps", "-q", "--no-trunc").split())


def _image_is_whole_or_absent(daemon: Daemon) -> None:
    for reference in daemon.out("images", "-q", "--filter", "reference=new*").split():
        assert daemon.out("run", "--rm", "--net", "none", "--entrypoint", "/bin/echo", reference, "whole") == "whole"


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
        prepare=lambda daemon: daemon.run("tag", "bb", "old"),
        act=lambda daemon: daemon.run("load", "-i", f"{daemon.root}/saved.tar", check=False),
        check=_image_is_whole_or_absent,
        undo=lambda daemon: daemon.run("rmi", "old"),
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
    "rename": Operation(
        prepare=_quiet("create", "--name", "before", "bb", "true"),
        act=_quiet("rename", "before", "after"),
        check=lambda daemon: _check_one_of(daemon, {"before", "after"}),
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
    found = set(daemon.out("ps", "-a", "--format", "{{.Names}}").split()) & names
    assert len(found) == 1


def _standing(daemon: Daemon) -> Counter[str]:
    """What must be the same before and after; descriptors are those of another process, and not compared."""
    return Counter({key: number for key, number in accounting.count(daemon).items() if " descriptor " not in key})


@pytest.mark.parametrize("name", OPERATIONS)
def test_death_at_any_stage_leaves_before_or_after(mortal: Daemon, name: str) -> None:
    operation = OPERATIONS[name]
    kill, at = mortal.root / "kill", mortal.root / "kill.at"
    operation.prepare(mortal)
    operation.act(mortal)
    operation.undo(mortal)
    before = _standing(mortal)
    keeper = mortal.out("inspect", "keeper", "-f", "{{.State.Pid}}")
    for stage in range(1, LIMIT, STRIDE) if STRIDE else SAMPLES:
        operation.prepare(mortal)
        kill.write_text(str(stage))
        operation.act(mortal)
        kill.unlink()
        assert mortal.process is not None
        where = f"after stage {stage}"
        if died := at.exists():
            mortal.process.wait(timeout=10)
            where = f"stage {stage}: {at.read_text()}"
            at.unlink()
            mortal.start()
        try:
            assert mortal.out("inspect", "keeper", "-f", "{{.State.Pid}} {{.State.Status}}") == f"{keeper} running"
            operation.check(mortal)
            operation.undo(mortal)
            left = accounting.settled(before, lambda: _standing(mortal))
            assert left == {}
        except AssertionError as error:
            raise AssertionError(f"{name}, {where}: {error}\n{mortal.log[-2000:]}") from error
        if not died:
            break
