"""``create``: from a bundle to a process that waits, in everything its config asks for, to become its program.

The process is made by `birth` and runs a plan (`wherry.runtime`). On the way it stops three times: until its parent has made its control
group and id maps, while the hooks of creation run, and at the gate. What fails undoes what was done, hooks of deletion included.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from wherry.bundle import birth, bundles, console, gate, groups, hooks, notify, states
from wherry.bundle.builder import Builder, Reserve
from wherry.bundle.failures import Failure
from wherry.bundle.journal import Journal
from wherry.bundle.states import Place, State
from wherry.kernel import cgroup, credentials, mount, process, userns
from wherry.runtime import channel, filters, mounting, plan, steps
from wherry.runtime.becoming import Start
from wherry.runtime.failure import StartFailure, words


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """``master``: the terminal's, or -1; ``line``: to the process at the gate, None when it waits for another command or is through."""

    place: Place
    state: State
    config: Mapping[str, Any]
    found: cgroup.Hierarchies
    pidfd: int
    master: int
    line: socket.socket | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    """All that is known before there is a process; ``reserve``: what makes or is the first one, and plans for itself."""

    place: Place
    state: State
    config: dict[str, Any]
    launch: dict[str, Any]
    planned: plan.Plan | None
    found: cgroup.Hierarchies
    start: Start
    reserve: Reserve | None


def create(root: str, ident: str, options: Mapping[str, Any], journal: Journal, *, here: bool, reserve: Reserve | None = None) -> Created:
    """``here``: the process is started by this very command; ``reserve``: to be used where it suits.  Raises Failure."""
    directory = os.path.realpath(options["bundle"] or ".")
    loaded = bundles.load(directory)
    bundles.check(loaded, directory)
    bundles.tell_ignored(loaded, journal)
    config = {**loaded, "process": bundles.with_known_capabilities(loaded["process"], journal)}
    check_descriptors(options["preserve-fds"])
    console.check(config["process"], options["console-socket"], detached=not here or bool(options.get("detach")))
    process.prctl(process.PR_SET_DUMPABLE, 0)  # nothing inside may reach this program by /proc
    with states.made(root, ident) as place, contextlib.ExitStack() as undo:
        try:
            prepared = _prepare(place, directory, config, options, reserve)
            created = _bear(prepared, options, undo, journal, here=here)
            console.hand_over(options["pidfd-socket"], created.pidfd)
        except StartFailure as failure:
            raise Failure(failure.message) from failure
        except (OSError, ValueError, KeyError) as error:
            raise Failure(words(error) if not isinstance(error, KeyError) else f"config.json: {error} is missing") from error
        undo.pop_all()
    journal.debug(f"created {ident}: pid {created.state.pid}")
    return created


def _prepare(place: Place, directory: str, config: dict[str, Any], options: Mapping[str, Any], reserve: Reserve | None) -> _Prepared:
    found = cgroup.find()
    if notify.host_socket():
        config = notify.prepare(place, config)
    adapted = bundles.adapt(config, directory, place.ident, found)
    linux = adapted["linux"]
    groups.check_empty(found, linux["cgroupsPath"])
    wanted = adapted["process"]
    rootfs = bundles.rootfs(config, directory)
    launch = {
        "config": adapted,
        "rootfs": {"lower": (), "upper": rootfs, "work": None, "recursive": True},
        "terminal": bool(wanted.get("terminal")),
        "console_size": console.initial_size(wanted, options["console-socket"]),
    }
    flags = bundles.seccomp_flags(linux.get("seccomp"))
    program = b""
    if seccomp := linux.get("seccomp"):
        program = reserve.compiler.remembered(seccomp) if reserve is not None else filters.Compiler().program(seccomp)
    listening = console.listen_fds()
    start = gate.start(
        console.with_listen_fds(wanted, listening),
        program,
        flags,
        preserve_fds=options["preserve-fds"] + listening,
        keyring=not options["no-new-keyring"],
    )
    state = State(
        ident=place.ident,
        bundle=directory,
        rootfs=rootfs,
        created=time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + f".{time.time_ns() % 10**9:09d}Z",
        owner="root",
        cgroups_path=linux["cgroupsPath"],
        annotations=dict(config.get("annotations") or {}),
    )
    if reserve is not None and not reserve.suits(adapted):
        reserve.discard()
        reserve = None
    planned = plan.make(launch, bundle=True, pivot=not options["no-pivot"]) if reserve is None else None
    return _Prepared(place=place, state=state, config=adapted, launch=launch, planned=planned, found=found, start=start, reserve=reserve)


def _bear(prepared: _Prepared, options: Mapping[str, Any], undo: contextlib.ExitStack, journal: Journal, *, here: bool) -> Created:
    """The process, brought to the gate."""
    if isinstance(prepared.reserve, Builder):
        return _build(prepared, prepared.reserve, options, undo)
    place, config = prepared.place, prepared.config
    linux = config["linux"]
    listener = None if here else undo.enter_context(_listen(place.socket))
    ours, report = channel.pair()
    undo.enter_context(ours)
    user_paths = [one.get("path") or "" for one in linux.get("namespaces") or () if one["type"] == "user"]
    has_users = bool(user_paths)
    if prepared.reserve is not None:  # it has much to read before it waits for us
        prepared.reserve.order(prepared.launch, prepared.start, prepared.found, report.fileno())
    state = replace(prepared.state, groups=groups.missing(prepared.found, prepared.state.cgroups_path))
    place.write(state)  # whatever happens to us, `delete` knows what to look for
    undo.callback(groups.remove, prepared.found, state.cgroups_path, state.groups)
    limits = prepared.found, state.cgroups_path, linux["resources"]
    if has_users:  # the group is one of the sources then
        groups.make(*limits)
    with report, _opened_sources(prepared) as sources:
        if prepared.planned is None:
            assert prepared.reserve is not None
            pid, pidfd = prepared.reserve.pid, prepared.reserve.pidfd
        else:
            pid, pidfd = birth.clone(prepared.planned.birth.clone_flags, linux)
            if pid == 0:
                ours.close()
                os.close(place.lock)
                sandbox = steps.Sandbox(prepared.found, sources=dict(sources))
                gate.live(config, prepared.planned, sandbox, prepared.start, report, listener)
    undo.callback(process.end, pidfd)
    if listener is not None:
        listener.close()
    if not has_users:  # while the process wakes up
        groups.make(*limits)
    state = replace(states.with_process(state, pid), complete=not config.get("hooks"))
    if has_users:
        if not user_paths[0]:  # one that exists has its maps, whatever the config says
            userns.write_maps(f"/proc/{pid}", plan.id_maps(linux.get("uidMappings")), plan.id_maps(linux.get("gidMappings")))
        _adjust_oom_score(pid, config["process"].get("oomScoreAdj"))
    undo.callback(_forget_pid, options["pid-file"])
    write_pid(options["pid-file"], pid)
    through = here and not config.get("hooks")  # nothing is to be done at the gate
    channel.send(ours, {"go": True, "through": through})
    undo.callback(_run_poststop, config, state, journal)
    place.write_config(config)
    place.write(state)
    master = _await_gate(ours, prepared, state, options["console-socket"], through=through)
    if not state.complete:
        state = replace(state, complete=True)
        place.write(state)
    line = ours if here and not through else None
    if line is None:
        ours.close()
    return Created(place=place, state=state, config=config, found=prepared.found, pidfd=pidfd, master=master, line=line)


def _build(prepared: _Prepared, builder: Builder, options: Mapping[str, Any], undo: contextlib.ExitStack) -> Created:
    """The program, executing: of a container that nothing is to be done for at the gate."""
    place, config, found = prepared.place, prepared.config, prepared.found
    state = replace(prepared.state, groups=groups.missing(found, prepared.state.cgroups_path))
    place.write(state)  # whatever happens to us, `delete` knows what to look for
    undo.callback(groups.remove, found, state.cgroups_path, state.groups)
    groups.make(found, state.cgroups_path, config["linux"]["resources"])
    try:
        built = builder.build(prepared.launch, prepared.start, found)
        undo.callback(process.end, built.pidfd)
        with contextlib.ExitStack() as waiting:
            waiting.callback(built.give_up)
            state = states.with_process(state, built.pid)
            undo.callback(_forget_pid, options["pid-file"])
            write_pid(options["pid-file"], built.pid)
            place.write_config(config)
            place.write(state)
            waiting.pop_all()
        built.release()
    except StartFailure as failure:
        raise Failure(_words(failure.message, complete=failure.complete)) from failure
    return Created(place=place, state=state, config=config, found=found, pidfd=built.pidfd, master=-1, line=None)


def _words(message: str, *, complete: bool) -> str:
    return message if complete else f"unable to start container process: {message}"


def _await_gate(ours: socket.socket, prepared: _Prepared, state: State, console_socket: str, *, through: bool) -> int:
    """Answer what the first process asks for on its way, up to the gate or its program; the terminal's master, or -1."""
    document = states.document(state, "creating")
    master = -1
    while True:
        try:
            message, fds = channel.receive(ours)
        except channel.Closed:
            if through:
                return master
            raise Failure("the container's first process ended before its program could run") from None
        if "hooks" in message:
            for kind in ("prestart", "createRuntime"):
                gate.run_hooks(prepared.config, kind, document)
            channel.send(ours, {"state": document})
        elif "terminal" in message:
            master = console.pass_on(fds[0], console_socket)
        elif "limits" in message:
            for limit in prepared.config["process"].get("rlimits") or ():
                credentials.set_rlimit(limit["type"], limit["soft"], limit["hard"], exact=True, pid=state.pid)
            channel.send(ours, {"go": True})
        elif "ready" in message:
            return master
        else:
            raise Failure(_words(message["message"], complete=message["complete"]))


@contextlib.contextmanager
def _opened_sources(prepared: _Prepared) -> Iterator[dict[int, int]]:
    """With a user namespace: the root and all sources of bind mounts, which its root may not be allowed to reach."""
    sources: dict[int, int] = {}
    try:
        if prepared.planned and any(one["type"] == "user" for one in prepared.config["linux"].get("namespaces") or ()):
            sources[mounting.ROOT] = mount.open_tree(mount.AT_FDCWD, prepared.state.rootfs, recursive=True)
            sandbox = steps.Sandbox(prepared.found, sources=sources)
            for step in prepared.planned.steps:
                if isinstance(step, mounting.OpenSource | mounting.OpenCgroups):
                    step.execute(sandbox)
        yield sources
    finally:
        for fd in sources.values():
            os.close(fd)


def _listen(path: str) -> contextlib.AbstractContextManager[socket.socket]:
    """A socket in the container's directory, by descriptor: the path may be longer than an address takes."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    directory = os.open(os.path.dirname(path), os.O_PATH | os.O_CLOEXEC)
    old = os.umask(0o177)
    try:
        listener.bind(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
        listener.listen(1)
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(old)
        os.close(directory)
    return listener


def _run_poststop(config: Mapping[str, Any], state: State, journal: Journal) -> None:
    for problem in hooks.problems(config, "poststop", states.document(state, "stopped")):
        journal.warn(problem)


def _forget_pid(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _adjust_oom_score(pid: int, score: int | None) -> None:
    if score is not None:
        with open(f"/proc/{pid}/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(score))


def check_descriptors(count: int) -> None:
    """Raises Failure unless all that the program shall inherit are open."""
    for fd in range(3, 3 + count):
        try:
            os.fstat(fd)
        except OSError:
            raise Failure(f"unable to stat preserved-fd {fd} (of {count}), please check that fds 3 to {2 + count} are open") from None


def write_pid(path: str, pid: int) -> None:
    """Whole or not at all: conmon reads it as soon as it is there."""
    if not path:
        return
    temporary = f"{os.path.dirname(path) or '.'}/.{os.path.basename(path)}"
    with open(temporary, "w", encoding="ascii") as file:
        file.write(str(pid))
    os.rename(temporary, path)
