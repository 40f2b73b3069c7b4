"""Instructions as typed values: what a logical line asks for, checked, with variables still in place.

``read`` turns a ``Line`` into one of the classes here and raises DockerfileError in BuildKit's words. Expansion happens when the
stage is played (``play.py``), for only then the values are known.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from wherry.build.failures import DockerfileError, did_you_mean, parse_error, syntax_error
from wherry.build.parse import Heredoc, Line, heredoc_word, json_strings, parse, parse_line, unknown_instruction, words

Pairs = tuple[tuple[str, str], ...]

_STAGE_NAME = re.compile(r"[a-z][a-z0-9-_.]*")
_DURATION = re.compile(r"[+-]?(?:(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:ns|us|µs|μs|ms|s|m|h))+|[+-]?0")
_DURATION_PART = re.compile(r"([0-9]*\.?[0-9]*)(ns|us|µs|μs|ms|s|m|h)")
_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """What all have: the line they came from."""

    line: Line


@dataclass(frozen=True, slots=True, kw_only=True)
class From(Instruction):
    """Start a stage.  ``name`` is lower-case or empty."""

    image: str
    name: str = ""
    written_name: str = ""
    platform: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arg(Instruction):
    """Declare build arguments; a default of None is none."""

    pairs: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Env(Instruction):
    pairs: Pairs
    legacy: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Label(Instruction):
    pairs: Pairs
    legacy: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Command(Instruction):
    """A program: ``args`` in exec form, or one string that the shell runs."""

    args: tuple[str, ...]
    shell_form: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(Command):
    mounts: tuple[str, ...] = ()
    network: str = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cmd(Command):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrypoint(Command):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy(Instruction):
    """COPY, or ADD where ``add``.  A source that names a heredoc is not in ``sources``."""

    sources: tuple[str, ...]
    destination: str
    documents: tuple[Heredoc, ...] = ()
    add: bool = False
    source_stage: str = ""
    chown: str = ""
    chmod: str = ""
    link: bool = False
    parents: bool = False
    excludes: tuple[str, ...] = ()
    checksum: str = ""
    unpack: bool | None = None
    keep_git_dir: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Expose(Instruction):
    ports: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume(Instruction):
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class User(Instruction):
    user: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Workdir(Instruction):
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell(Instruction):
    args: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StopSignal(Instruction):
    signal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck(Instruction):
    """``test`` as the image config has it: NONE, CMD ... or CMD-SHELL ...; durations in nanoseconds, 0 where not given."""

    test: tuple[str, ...]
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OnBuild(Instruction):
    trigger: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintainer(Instruction):
    author: str


def read(line: Line, escape: str = "\\") -> Instruction:
    """The typed instruction of ``line``.  Raises DockerfileError."""
    reader = READERS.get(line.name)
    if reader is None:
        known = READERS if line.keyword.isupper() else [name.lower() for name in READERS]
        raise unknown_instruction(line, did_you_mean(line.keyword, known))
    return reader(line, escape)


def read_trigger(text: str, line: Line, escape: str = "\\") -> Instruction:
    """The instruction that an ONBUILD of a base image holds; ``line`` is the FROM that pulls the trigger."""
    return read(replace(parse(text.encode()).lines[0], first=line.first, last=line.last), escape)


def duration(text: str) -> int:
    """Nanoseconds of a Go duration (``1m30s``).  Raises ValueError in Go's words."""
    if not _DURATION.fullmatch(text):
        raise ValueError(f'time: invalid duration "{text}"')
    total = sum(float(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(text))
    return round(-total if text.startswith("-") else total)


class _Flags:
    """The flags of a line, each used at most once unless a list."""

    def __init__(self, line: Line, known: Mapping[str, str]) -> None:
        """``known``: flag name -> ``bool``, ``string`` or ``list``."""
        self.line = line
        self.values: dict[str, list[str]] = {}
        for flag in line.flags:
            name, equals, value = flag[2:].partition("=")
            kind = known.get(name)
            if kind is None:
                raise _fault(line, f"unknown flag: --{name}{did_you_mean(name, known)}")
            if name in self.values and kind != "list":
                raise _fault(line, f"duplicate flag specified: --{name}")
            if kind == "bool":
                value = self._boolean(name, value)
            elif not equals:
                raise _fault(line, f"missing a value on flag: --{name}")
            self.values.setdefault(name, []).append(value)

    def _boolean(self, name: str, value: str) -> str:
        if value.lower() not in ("", "true", "false"):
            raise _fault(self.line, f"expecting boolean value for flag --{name}, not: {value}")
        return "false" if value.lower() == "false" else "true"

    def text(self, name: str, default: str = "") -> str:
        return self.values.get(name, [default])[0]

    def texts(self, name: str) -> tuple[str, ...]:
        return tuple(self.values.get(name, ()))

    def true(self, name: str) -> bool:
        return self.text(name) == "true"


def _fault(line: Line, message: str) -> DockerfileError:
    return parse_error(line.first, line.last, message)


def _needs(line: Line, count: str) -> DockerfileError:
    return _fault(line, f"{line.name} requires {count}")


def _no_flags(line: Line) -> None:
    _Flags(line, {})


def _from(line: Line, escape: str) -> Instruction:
    flags = _Flags(line, {"platform": "string"})
    parts = line.rest.split()
    if len(parts) == 1:
        return From(line=line, image=parts[0], platform=flags.text("platform"))
    if len(parts) != 3 or parts[1].lower() != "as":
        raise _needs(line, "either one or three arguments")
    name = parts[2].lower()
    if not _STAGE_NAME.fullmatch(name):
        raise _fault(line, f'invalid name for build stage: "{parts[2]}", name can\'t start with a number or contain symbols')
    return From(line=line, image=parts[0], name=name, written_name=parts[2], platform=flags.text("platform"))


def _pairs(line: Line, escape: str) -> tuple[Pairs, bool]:
    """``k=v`` words, or the old ``k rest of the line``."""
    found = words(line.rest, escape)
    if not found:
        raise _needs(line, "at least one argument")
    if "=" not in found[0]:
        name, value = found[0], line.rest.strip()[len(found[0]) :]
        if not value.strip():
            raise syntax_error(line.lines, f"{line.name} must have two arguments")
        return ((name, value.strip()),), True
    pairs: list[tuple[str, str]] = []
    for word in found:
        name, equals, value = word.partition("=")
        if not equals:
            raise syntax_error(line.lines, f'Syntax error - can\'t find = in "{word}". Must be of the form: name=value')
        if not name:
            raise _fault(line, f"{line.name} names can not be blank")
        pairs.append((name, value))
    return tuple(pairs), False


def _env(line: Line, escape: str) -> Instruction:
    _no_flags(line)
    pairs, legacy = _pairs(line, escape)
    return Env(line=line, pairs=pairs, legacy=legacy)


def _label(line: Line, escape: str) -> Instruction:
    _no_flags(line)
    pairs, legacy = _pairs(line, escape)
    return Label(line=line, pairs=pairs, legacy=legacy)


def _arg(line: Line, escape: str) -> Instruction:
    _no_flags(line)
    pairs: list[tuple[str, str | None]] = []
    for word in words(line.rest, escape):
        name, equals, value = word.partition("=")
        if not name:
            raise _fault(line, "ARG names can not be blank")
        pairs.append((name, value if equals else None))
    if not pairs:
        raise _needs(line, "at least one argument")
    return Arg(line=line, pairs=tuple(pairs))


def _command(rest: str) -> tuple[tuple[str, ...], bool]:
    listed = json_strings(rest)
    if listed is not None:
        return tuple(listed), False
    return (rest,), True


def _run(line: Line, escape: str) -> Instruction:
    flags = _Flags(line, {"mount": "list", "network": "string"})
    network = flags.text("network", "default")
    if network not in ("default", "none", "host"):
        raise _fault(line, f'invalid network mode "{network}"')
    for mount in flags.texts("mount"):
        _check_mount_source(line, mount)
    args, shell_form = _command(line.rest)
    if not args:
        raise DockerfileError("failed to marshal LLB definition: arguments are required", (line.first, line.last))
    return Run(line=line, args=args, shell_form=shell_form, mounts=flags.texts("mount"), network=network)


def _check_mount_source(line: Line, mount: str) -> None:
    for part in mount.split(","):
        key, _, value = part.partition("=")
        if key.strip().lower() == "from" and "$" in value:
            raise _fault(line, "'from' doesn't support variable expansion, define alias stage instead")


def _cmd(line: Line, escape: str) -> Instruction:
    _no_flags(line)
    args, shell_form = _command(line.rest)
    return Cmd(line=line, args=args, shell_form=shell_form)


def _entrypoint(line: Line, escape: str) -> Instruction:
    _no_flags(line)
    args, shell_form = _command(line.rest)
    return Entrypoint(line=line, args=args, shell_form=shell_form)


_TRANSFER_FLAGS = {"chown": "string", "chmod": "string", "link": "bool", "exclude": "list"}
_COPY_FLAGS = _TRANSFER_FLAGS | {"from": "string", "parents": "bool"}
_ADD_FLAGS = _TRANSFER_FLAGS | {"checksum": "string", "keep-git-dir": "bool", "unpack": "bool"}


def _copy(line: Line, escape: str) -> Instruction:
    add = line.name == "ADD"
    flags = _Flags(line, _ADD_FLAGS if add else _COPY_FLAGS)
    parts = json_strings(line.rest)
    if parts is None:
        parts = line.rest.split()
    if len(parts) < 2:
        raise _needs(line, "at least two arguments, but only one was provided. Destination could not be determined")
    documents = {document.name: document for document in line.heredocs}
    used: list[Heredoc] = []
    sources: list[str] = []
    for part in parts[:-1]:
        head = heredoc_word(part, escape) if documents else None
        if head is not None and head[2] in documents:
            used.append(documents[head[2]])
        else:
            sources.append(part)
    return Copy(
        line=line,
        sources=tuple(sources),
        destination=parts[-1],
        documents=tuple(used),
        add=add,
        source_stage=flags.text("from"),
        chown=flags.text("chown"),
        chmod=flags.text("chmod"),
        link=flags.true("link"),
        parents=flags.true("parents"),
        excludes=flags.texts("exclude"),
        checksum=flags.text("checksum"),
        unpack=flags.true("unpack") if "unpack" in flags.values else None,
        keep_git_dir=flags.true("keep-git-dir"),
    )


def _expose(line: Line, escape: str) -> Instruction:
    _no_flags(line)
    ports = tuple(line.rest.split())
    if not ports:
        raise _needs(line, "at least one argument")
    return Expose(line=line, ports=ports)


def _volume(line: Line, escape: str) -> Instruction:
    _no_flags(line)
    listed = json_strings(line.rest)
    paths = tuple(path.strip() for path in (line.rest.split() if listed is None else listed))
    if not paths:
        raise _needs(line, "at least one argument")
    if "" in paths:
        raise _fault(line, "VOLUME specified can not be an empty string")
    return Volume(line=line, paths=paths)


def _single(line: Line) -> str:
    _no_flags(line)
    if not line.rest.strip():
        raise _needs(line, "exactly one argument")
    return line.rest.strip()


def _user(line: Line, escape: str) -> Instruction:
    return User(line=line, user=_single(line))


def _workdir(line: Line, escape: str) -> Instruction:
    return Workdir(line=line, path=_single(line))


def _stop_signal(line: Line, escape: str) -> Instruction:
    return StopSignal(line=line, signal=_single(line))


def _maintainer(line: Line, escape: str) -> Instruction:
    return Maintainer(line=line, author=_single(line))


def _shell(line: Line, escape: str) -> Instruction:
    _no_flags(line)
    listed = json_strings(line.rest)
    if listed is None and line.rest:
        raise _fault(line, "SHELL requires the arguments to be in JSON form")
    if not listed:
        raise _needs(line, "at least one argument")
    return Shell(line=line, args=tuple(listed))


_HEALTH_FLAGS = {name: "string" for name in ("interval", "timeout", "start-period", "start-interval", "retries")}


def _health_check(line: Line, escape: str) -> Instruction:
    flags = _Flags(line, _HEALTH_FLAGS)
    kind, _, rest = line.rest.strip().partition(" ")
    rest = rest.strip()
    if not kind:
        raise _needs(line, "at least one argument")
    if kind.upper() == "NONE":
        if rest:
            raise _fault(line, "HEALTHCHECK NONE takes no arguments")
        return HealthCheck(line=line, test=("NONE",))
    if kind.upper() != "CMD":
        raise _fault(line, f'Unknown type "{kind.upper()}" in HEALTHCHECK (try CMD)')
    args, shell_form = _command(rest)
    if not rest or not args:
        raise _fault(line, "Missing command after HEALTHCHECK CMD")
    times = {name: _health_time(line, name, flags.text(name)) for name in _HEALTH_FLAGS if name != "retries"}
    return HealthCheck(
        line=line,
        test=("CMD-SHELL" if shell_form else "CMD", *args),
        interval=times["interval"],
        timeout=times["timeout"],
        start_period=times["start-period"],
        start_interval=times["start-interval"],
        retries=_retries(line, flags.text("retries")),
    )


def _health_time(line: Line, name: str, text: str) -> int:
    if not text:
        return 0
    try:
        ns = duration(text)
    except ValueError as error:
        raise _fault(line, str(error)) from None
    if 0 != ns < 10**6:
        raise _fault(line, f'Interval "{name}" cannot be less than 1ms')
    return ns


def _retries(line: Line, text: str) -> int:
    if not text:
        return 0
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        raise _fault(line, f'strconv.ParseInt: parsing "{text}": invalid syntax')
    number = int(text)
    if number < 0:
        raise _fault(line, f"--retries cannot be negative ({number})")
    return number


_WITH_LISTS = frozenset(("ADD", "CMD", "COPY", "ENTRYPOINT", "RUN", "SHELL", "VOLUME"))


def _on_build(line: Line, escape: str) -> Instruction:
    _no_flags(line)
    parts = line.rest.split(maxsplit=1)
    if not parts:
        raise _needs(line, "at least one argument")
    trigger = parts[0].upper()
    if trigger == "ONBUILD":
        raise _fault(line, "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if trigger in ("MAINTAINER", "FROM"):
        raise _fault(line, f"{trigger} isn't allowed as an ONBUILD trigger")
    if trigger in _WITH_LISTS:
        json_strings(parse_line(line.rest, escape, line.first, line.last).rest)
    text = re.sub(r"(?i)^\s*ONBUILD\s*", "", line.text).strip()
    for document in line.heredocs:
        text += "\n" + document.body + document.name
    return OnBuild(line=line, trigger=text)


READERS: Mapping[str, Callable[[Line, str], Instruction]] = {
    "ADD": _copy,
    "ARG": _arg,
    "CMD": _cmd,
    "COPY": _copy,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "FROM": _from,
    "HEALTHCHECK": _health_check,
    "LABEL": _label,
    "MAINTAINER": _maintainer,
    "ONBUILD": _on_build,
    "RUN": _run,
    "SHELL": _shell,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
