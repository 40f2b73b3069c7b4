"""``kill`` and ``delete``."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Mapping
from typing import Any

from wherry.bundle import groups, hooks, states
from wherry.bundle.failures import Failure
from wherry.bundle.journal import Journal
from wherry.bundle.states import Place, State
from wherry.kernel import cgroup

_END_S = 10


def kill(root: str, ident: str, word: str, *, every: bool) -> None:
    """Send a signal to the first process, or to all.  Raises Failure when there is none to send it to."""
    number = signal_number(word or "SIGTERM")
    with states.opened(root, ident) as place:
        state, found = place.state(), cgroup.find()
        if every:
            _signal_all(found, state.cgroups_path, number)
        elif number == signal.SIGKILL and not _has_own_pids(place) and _signal_all(found, state.cgroups_path, number):
            pass  # nothing ends them with the first, which may have ended before
        else:
            states.send_signal(state, number)
        if number == signal.SIGKILL and cgroup.is_frozen(found, state.cgroups_path):
            cgroup.freeze(found, state.cgroups_path, frozen=False)  # nobody ends who is frozen, on v1


def delete(root: str, ident: str, journal: Journal, *, force: bool) -> None:
    """Remove a stopped container; with ``force`` kill it first, and one that is not there is gone already."""
    try:
        with states.opened(root, ident, awaits_creation=True) as place:
            _delete(place, journal, force=force)
    except Failure:
        if not (force and not os.path.lexists(f"{root}/{ident}")):
            raise


def signal_number(word: str) -> int:
    """The number of ``TERM``, ``SIGTERM`` or ``15``.  Raises Failure."""
    if word.isdigit():
        if 0 <= int(word) < signal.NSIG:
            return int(word)
    else:
        name = word.upper()
        name = name if name.startswith("SIG") else f"SIG{name}"
        if name in signal.Signals.__members__:
            return int(signal.Signals[name])
        if name.startswith("SIGRTMIN+") and name[9:].isdigit() and int(name[9:]) <= signal.SIGRTMAX - signal.SIGRTMIN:
            return int(signal.SIGRTMIN) + int(name[9:])
    raise Failure(f"unknown signal {word!r}")


def _delete(place: Place, journal: Journal, *, force: bool) -> None:
    try:
        state = place.state()
    except Failure:
        if not force:
            raise
        place.remove()
        return
    found = cgroup.find()
    current = states.status(place, state, found)
    if current != "stopped" and not force:
        raise Failure(f"cannot delete container {state.ident} that is not stopped: {current}")
    if current != "stopped":
        _end(state, found)
    clear(place, state, place.config() if os.path.exists(f"{place.path}/config.json") else {}, found, journal)


def clear(place: Place, state: State, config: Mapping[str, Any], found: cgroup.Hierarchies, journal: Journal) -> None:
    """Take away what an ended container leaves: its group with what is still in it, its state; then the hooks.  Raises Failure."""
    if not groups.remove(found, state.cgroups_path, state.groups):
        raise Failure(f"container {state.ident}: the kernel keeps its control group {state.cgroups_path}: a process in it does not end")
    place.remove()
    for problem in hooks.problems(config, "poststop", states.document(state, "stopped")):
        journal.warn(problem)


def _end(state: State, found: cgroup.Hierarchies) -> None:
    """Kill the first process, and with it all of its pid namespace, and wait until it is so."""
    try:
        with states.process(state) as pidfd:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            if cgroup.is_frozen(found, state.cgroups_path):
                cgroup.freeze(found, state.cgroups_path, frozen=False)
            waiting = select.poll()
            waiting.register(pidfd, select.POLLIN)
            if not waiting.poll(_END_S * 1000):
                raise Failure(f"container {state.ident}: its first process does not end")
    except (Failure, ProcessLookupError):
        if states.is_alive(state):
            raise


def _has_own_pids(place: Place) -> bool:
    namespaces = place.config()["linux"].get("namespaces") or ()
    return any(one["type"] == "pid" and not one.get("path") for one in namespaces)


def _signal_all(found: cgroup.Hierarchies, path: str, number: int) -> bool:
    """False when there is no process in the group."""
    try:
        pids = cgroup.processes(found, path)
    except FileNotFoundError:
        return False
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    return bool(pids)
