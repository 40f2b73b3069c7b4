"""The command line of an OCI runtime: flags as runc has them, one table for each command.

Source: opencontainers/runtime-tools, docs/command-line-interface.md; the flags beyond it are those that containerd and conmon pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wherry.bundle.failures import Failure


@dataclass(frozen=True, slots=True)
class Flag:
    """``kind``: bool, str, int or list (given more than once); ``names``: the long one first."""

    kind: str
    names: tuple[str, ...]
    text: str
    default: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """``least`` and ``most`` arguments; ``usage`` names them."""

    text: str
    usage: str
    least: int
    most: int
    flags: tuple[Flag, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What was asked for; ``options`` by the flag's long name."""

    verb: str
    settings: Mapping[str, Any]
    options: Mapping[str, Any]
    arguments: tuple[str, ...]


GLOBALS = (
    Flag("str", ("root",), "where the state of containers is kept", "/run/wherry-runtime"),
    Flag("str", ("log",), "append messages to this file too", ""),
    Flag("str", ("log-format",), "text or json", "text"),
    Flag("bool", ("debug",), "log more"),
    Flag("bool", ("systemd-cgroup",), "refused: control groups are made in the file system"),
    Flag("str", ("rootless",), "only false and auto are accepted: this runtime needs root", "auto"),
    Flag("str", ("server",), "leave a server for quick runs: its directory and that of python", ""),
    Flag("bool", ("help", "h"), "show help"),
    Flag("bool", ("version", "v"), "print the version"),
)
_BUNDLE = (
    Flag("str", ("bundle", "b"), "directory of the bundle", ""),
    Flag("str", ("console-socket",), "a unix socket that gets the terminal's master", ""),
    Flag("str", ("pidfd-socket",), "a unix socket that gets a pidfd of the first process", ""),
    Flag("str", ("pid-file",), "write the first process's id here", ""),
    Flag("bool", ("no-pivot",), "change the root with chroot: for a host that runs from a ramdisk"),
    Flag("bool", ("no-new-keyring",), "keep the caller's session keyring"),
    Flag("int", ("preserve-fds",), "how many descriptors from 3 on the program inherits", 0),
)
_FORMAT = Flag("str", ("format", "f"), "table or json", "table")
_NUMBERS = ("blkio-weight", "cpu-period", "cpu-quota", "cpu-burst", "cpu-share", "cpu-rt-period", "cpu-rt-runtime", "cpu-idle")
_SIZES = ("memory", "memory-reservation", "memory-swap", "pids-limit")

VERBS: Mapping[str, Verb] = {
    "create": Verb(text="create a container that waits for start", usage="ID", least=1, most=1, flags=_BUNDLE),
    "run": Verb(
        text="create a container, start it and wait for its end",
        usage="ID",
        least=1,
        most=1,
        flags=(
            *_BUNDLE,
            Flag("bool", ("detach", "d"), "do not wait"),
            Flag("bool", ("keep",), "do not delete the container at its end"),
            Flag("bool", ("no-subreaper",), "do not adopt what the container's processes leave"),
        ),
    ),
    "start": Verb(text="let the program of a created container run", usage="ID", least=1, most=1),
    "state": Verb(text="print the state of a container", usage="ID", least=1, most=1),
    "kill": Verb(
        text="send a signal, TERM when none is named",
        usage="ID [SIGNAL]",
        least=1,
        most=2,
        flags=(Flag("bool", ("all", "a"), "to every process of the container"),),
    ),
    "delete": Verb(
        text="remove what is left of a stopped container",
        usage="ID",
        least=1,
        most=1,
        flags=(Flag("bool", ("force", "f"), "kill it first; a missing container is no error"),),
    ),
    "exec": Verb(
        text="run another program in a container",
        usage="ID PROGRAM [ARGUMENT...]",
        least=1,
        most=1 << 16,
        flags=(
            Flag("str", ("process", "p"), "a file with the OCI process object", ""),
            Flag("bool", ("detach", "d"), "do not wait"),
            Flag("bool", ("tty", "t"), "give it a terminal"),
            Flag("str", ("cwd",), "working directory", ""),
            Flag("list", ("env", "e"), "NAME=VALUE"),
            Flag("str", ("user", "u"), "UID[:GID]", ""),
            Flag("list", ("additional-gids", "g"), "more groups"),
            Flag("list", ("cap", "c"), "one more capability"),
            Flag("bool", ("no-new-privs",), "set no_new_privs"),
            Flag("str", ("pid-file",), "write the process id here", ""),
            Flag("str", ("console-socket",), "a unix socket that gets the terminal's master", ""),
            Flag("str", ("pidfd-socket",), "a unix socket that gets a pidfd of the process", ""),
            Flag("str", ("apparmor",), "AppArmor profile", ""),
            Flag("str", ("process-label",), "SELinux label", ""),
            Flag("int", ("preserve-fds",), "how many descriptors from 3 on the program inherits", 0),
            Flag("list", ("cgroup",), "a group below the container's, [CONTROLLER:]PATH"),
            Flag("bool", ("ignore-paused",), "also while the container is paused"),
        ),
    ),
    "ps": Verb(text="list the processes of a container", usage="ID", least=1, most=1 << 16, flags=(_FORMAT,)),
    "pause": Verb(text="freeze every process of a container", usage="ID", least=1, most=1),
    "resume": Verb(text="let a paused container go on", usage="ID", least=1, most=1),
    "list": Verb(text="list containers", usage="", least=0, most=0, flags=(_FORMAT, Flag("bool", ("quiet", "q"), "only their ids"))),
    "update": Verb(
        text="change the limits of a container",
        usage="ID",
        least=1,
        most=1,
        flags=(
            Flag("str", ("resources", "r"), "a file with an OCI linux.resources object, - for standard input", ""),
            *(Flag("int", (name,), name.replace("-", " ")) for name in _NUMBERS),
            *(Flag("str", (name,), name.replace("-", " ")) for name in ("cpuset-cpus", "cpuset-mems", *_SIZES)),
            Flag("str", ("l3-cache-schema",), "refused: linux.intelRdt is not supported", ""),
            Flag("str", ("mem-bw-schema",), "refused: linux.intelRdt is not supported", ""),
        ),
    ),
    "events": Verb(
        text="print what a container uses, and when memory runs out",
        usage="ID",
        least=1,
        most=1,
        flags=(Flag("bool", ("stats",), "once, then end"), Flag("str", ("interval",), "time between two prints", "5s")),
    ),
    "spec": Verb(
        text="write a config.json to start from",
        usage="",
        least=0,
        most=0,
        flags=(
            Flag("str", ("bundle", "b"), "directory of the bundle", ""),
            Flag("bool", ("rootless",), "for a user namespace of one's own"),
        ),
    ),
    "features": Verb(text="print what this runtime supports, as JSON", usage="", least=0, most=0),
}

_REFUSED = ("checkpoint", "restore")


def parse(words: Sequence[str]) -> Command:
    """Raises Failure for a flag or command that is not there, or the wrong number of arguments."""
    settings, rest = _flags(words, GLOBALS, "wherry-runtime")
    if settings["version"]:
        return Command(verb="version", settings=settings, options={}, arguments=())
    if settings["help"] or not rest or rest[0] == "help":
        return Command(verb="help", settings=settings, options={}, arguments=tuple(rest[1:2]))
    name = rest[0]
    if name in _REFUSED:
        raise Failure(f"wherry-runtime: {name} is not supported")
    if name not in VERBS:
        raise Failure(f"wherry-runtime: no such command: {name} (it has {', '.join(VERBS)})")
    verb = VERBS[name]
    if "--help" in rest[1:2] or "-h" in rest[1:2]:
        return Command(verb="help", settings=settings, options={}, arguments=(name,))
    options, arguments = _flags(rest[1:], verb.flags, name, intermixed=verb.most <= 2)
    if not verb.least <= len(arguments) <= verb.most:
        raise Failure(f'wherry-runtime: "{name}" takes {verb.usage or "no arguments"}: {len(arguments)} given')
    return Command(verb=name, settings=settings, options=options, arguments=tuple(arguments))


def help_text(name: str = "") -> str:
    """What ``--help`` prints."""
    if name in VERBS:
        verb = VERBS[name]
        lines = [f"Usage: wherry-runtime {name} [flags] {verb.usage}".rstrip(), "", verb.text, *_flag_lines(verb.flags)]
    else:
        lines = ["Usage: wherry-runtime [flags] COMMAND", "", "An OCI runtime.", "", "Commands:"]
        lines += [f"  {key:10} {verb.text}" for key, verb in VERBS.items()]
        lines += _flag_lines(GLOBALS)
    return "\n".join(lines)


def _flag_lines(flags: Sequence[Flag]) -> list[str]:
    if not flags:
        return []
    shown = [(", ".join(("--" if len(one) > 1 else "-") + one for one in flag.names), flag.text) for flag in flags]
    return ["", "Flags:", *(f"  {names:26} {text}" for names, text in shown)]


def _flags(words: Sequence[str], flags: Sequence[Flag], where: str, *, intermixed: bool = False) -> tuple[dict[str, Any], list[str]]:
    """Values by long name and what is left; ``intermixed``: flags may follow the arguments, as in ``kill ID --all``."""
    known = {name: flag for flag in flags for name in flag.names}
    found: dict[str, Any] = {flag.names[0]: [] if flag.kind == "list" else flag.default for flag in flags}
    rest: list[str] = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if word == "--":
            rest += queue
            break
        if not word.startswith("-") or word == "-" or (where == "kill" and word[1:].isdigit()):
            rest.append(word)
            if not intermixed:
                rest += queue
                break
            continue
        name, equals, value = word.lstrip("-").partition("=")
        if name not in known:
            raise Failure(f"wherry-runtime: {where}: no such flag: {word.partition('=')[0]}")
        flag = known[name]
        if flag.kind != "bool" and not equals:
            if not queue:
                raise Failure(f"wherry-runtime: {where}: {word} needs a value")
            value = queue.pop(0)
        _set(found, flag, value if equals or flag.kind != "bool" else "true", where)
    return found, rest


def _set(found: dict[str, Any], flag: Flag, value: str, where: str) -> None:
    key = flag.names[0]
    if flag.kind == "list":
        found[key].append(value)
    elif flag.kind == "bool":
        if value not in ("true", "false"):
            raise Failure(f"wherry-runtime: {where}: --{key} is true or false, not {value}")
        found[key] = value == "true"
    elif flag.kind == "int":
        try:
            found[key] = int(value)
        except ValueError:
            raise Failure(f"wherry-runtime: {where}: --{key} is a number, not {value}") from None
    else:
        found[key] = value
