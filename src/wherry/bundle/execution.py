"""``exec``: another program in a running container."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from wherry.bundle import bundles, console, creation, foreground, gate, shape, states
from wherry.bundle.failures import Failure
from wherry.bundle.journal import Journal
from wherry.bundle.states import State
from wherry.kernel import cgroup, namespace, process, scheduling
from wherry.runtime import channel, filters, init
from wherry.runtime.failure import StartFailure, words

_FILES = {
    "mnt": namespace.CLONE_NEWNS,
    "uts": namespace.CLONE_NEWUTS,
    "ipc": namespace.CLONE_NEWIPC,
    "net": namespace.CLONE_NEWNET,
    "cgroup": namespace.CLONE_NEWCGROUP,
    "user": namespace.CLONE_NEWUSER,
    "time": namespace.CLONE_NEWTIME,
}


def execute(root: str, arguments: Sequence[str], options: Mapping[str, Any], journal: Journal) -> int:
    """The program's exit code, or 0 at once when detached.  Raises Failure, with code 255, when it does not run."""
    try:
        return _execute(root, arguments, options, journal)
    except Failure as failure:
        raise Failure(failure.message, 255) from None
    except StartFailure as failure:
        raise Failure(failure.message, 255) from None
    except (OSError, ValueError) as error:
        raise Failure(words(error), 255) from error


def _execute(root: str, arguments: Sequence[str], options: Mapping[str, Any], journal: Journal) -> int:
    detached = bool(options["detach"])
    creation.check_descriptors(options["preserve-fds"])
    process.prctl(process.PR_SET_DUMPABLE, 0)
    with contextlib.ExitStack() as stack:
        signals = None if detached else stack.enter_context(foreground.gathered_signals())
        with states.opened(root, arguments[0]) as place:
            state, config = place.state(), place.config()
            current = states.status(place, state, cgroup.find())
            _check_status(current, ignore_paused=options["ignore-paused"])
            wanted = _process(config, arguments[1:], options)
            bundles.check_process(wanted)
            wanted = bundles.with_known_capabilities(wanted, journal)
            console.check(wanted, options["console-socket"], detached=detached)
            born = _bear(state, config, wanted, options) if current != "paused" else None
        if born is None:  # it begins when another command resumes the container, which wants the lock
            born = _bear(state, config, wanted, options)
        pid, pidfd, master = born
        try:
            creation.write_pid(options["pid-file"], pid)
            console.hand_over(options["pidfd-socket"], pidfd)
        except (OSError, Failure):
            process.end(pidfd)
            raise
        stack.callback(os.close, pidfd)
        journal.debug(f"executes in {state.ident}: pid {pid}")
        return 0 if signals is None else foreground.wait(pid, pidfd, signals, master)


def _check_status(current: str, *, ignore_paused: bool) -> None:
    if current == "paused" and not ignore_paused:
        raise Failure("cannot exec in a paused container (use --ignore-paused to override)")
    if current in ("stopped", "creating"):
        raise Failure(f"cannot exec in a {current} container")


def _process(config: Mapping[str, Any], words_given: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """The OCI process object: from a file, or the container's own with what the flags change."""
    if options["process"]:
        if len(words_given) or any(options[name] for name in ("cwd", "user", "env", "cap", "additional-gids")):
            raise Failure("exec: --process and flags that describe the process exclude each other")
        try:
            with open(options["process"], encoding="utf-8") as file:
                wanted: dict[str, Any] = shape.checked(json.load(file), shape.PROCESS)
        except (OSError, ValueError) as error:
            raise Failure(f"--process {options['process']}: {error}") from None
        except Failure as failure:
            raise Failure(f"--process {options['process']}: {failure.message}") from None
        if options["tty"]:
            wanted["terminal"] = True
        return wanted
    if not words_given:
        raise Failure("process args cannot be empty")
    wanted = {**config["process"], "args": list(words_given), "terminal": bool(options["tty"])}
    wanted["env"] = [*(wanted.get("env") or ()), *options["env"]]
    if options["cwd"]:
        wanted["cwd"] = options["cwd"]
    if options["apparmor"]:
        wanted["apparmorProfile"] = options["apparmor"]
    if options["process-label"]:
        wanted["selinuxLabel"] = options["process-label"]
    if options["no-new-privs"]:
        wanted["noNewPrivileges"] = True
    if options["cap"]:
        sets = dict(wanted.get("capabilities") or {})
        for name in ("bounding", "effective", "permitted"):
            sets[name] = [*(sets.get(name) or ()), *options["cap"]]
        wanted["capabilities"] = sets
    wanted["user"] = _user(wanted.get("user") or {}, options)
    return wanted


def _user(before: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    user = dict(before)
    try:
        if options["user"]:
            uid, colon, gid = options["user"].partition(":")
            user["uid"] = int(uid)
            if colon:
                user["gid"] = int(gid)
        if options["additional-gids"]:
            user["additionalGids"] = [*(user.get("additionalGids") or ()), *(int(one) for one in options["additional-gids"])]
    except ValueError:
        raise Failure("exec: users and groups are numbers: UID[:GID]") from None
    return user


def _bear(state: State, config: Mapping[str, Any], wanted: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[int, int, int]:
    """(pid, pidfd, master or -1) of the program, executing."""
    size = console.initial_size(wanted, options["console-socket"])
    seccomp = (config.get("linux") or {}).get("seccomp")
    program = filters.Compiler().program(seccomp) if seccomp else b""
    start = gate.start(wanted, program, bundles.seccomp_flags(seccomp), preserve_fds=options["preserve-fds"])
    found = cgroup.find()
    directories = _groups(state, found, options["cgroup"])
    if initial := (wanted.get("execCPUAffinity") or {}).get("initial"):
        _bind(initial)
    ours, report = channel.pair()
    with ours, report, states.process(state) as target:
        namespace.setns(target, namespace.CLONE_NEWPID)
        pid, pidfd = process.clone(0)
        if pid == 0:
            ours.close()
            kinds = _differing(state.pid)
            init.run_exec(target, state.cgroups_path, found, start, size, report, kinds=kinds, directories=directories)
        report.close()
        try:
            return pid, pidfd, _await_program(ours, options["console-socket"])
        except BaseException:
            process.end(pidfd)
            raise


def _await_program(ours: socket.socket, console_socket: str) -> int:
    master = -1
    while True:
        try:
            message, fds = channel.receive(ours)
        except channel.Closed:
            return master
        if "terminal" not in message:
            raise Failure(("" if message["complete"] else "unable to start container process: ") + message["message"])
        master = console.pass_on(fds[0], console_socket)


def _differing(pid: int) -> int:
    """Which namespaces of a process are not ours."""
    return sum(kind for name, kind in _FILES.items() if not namespace.same(f"/proc/{pid}/ns/{name}", f"/proc/self/ns/{name}"))


def _bind(cpus: str) -> None:
    try:
        os.sched_setaffinity(0, scheduling.cpus(cpus))
    except (OSError, ValueError) as error:
        raise Failure(f"process.execCPUAffinity.initial {cpus}: {words(error)}") from None


def _groups(state: State, found: cgroup.Hierarchies, wanted: Sequence[str]) -> tuple[str, ...]:
    """Directories of the groups below the container's that ``--cgroup`` names, [CONTROLLER[,CONTROLLER]:]PATH; () if it names none."""
    if not wanted:
        return ()
    paths = {controller: "" for controller in found.v1} or {"": ""}
    for one in wanted:
        names, colon, below = one.rpartition(":")
        if not colon and len(wanted) > 1:
            raise Failure(f"exec: --cgroup {one}: for all controllers there is one group")
        for controller in names.split(",") if colon else paths:
            if controller not in paths:
                raise Failure(f"exec: --cgroup {one}: unknown controller {controller}")
            paths[controller] = below.strip("/")
        if ".." in below.split("/"):
            raise Failure(f"exec: --cgroup {one}: bad sub cgroup path")
    groups = (found.directory(controller, f"{state.cgroups_path}/{below}".rstrip("/")) for controller, below in paths.items())
    directories = tuple(dict.fromkeys(group for group in groups if group))
    for directory in directories:
        if not os.path.isdir(directory):
            raise Failure(f"exec: --cgroup: {directory}: no such file or directory")
    return directories
