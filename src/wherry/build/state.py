"""What a stage amounts to after each instruction: the image config so far, its layers, its arguments, and the key that names it all.

Values never change; an instruction gives the next one. The rules about config and history are BuildKit's as seen on Docker 28.5.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import msgspec

from wherry.build.failures import DockerfileError
from wherry.build.instructions import (
    Arg,
    Cmd,
    Command,
    Entrypoint,
    Env,
    Expose,
    HealthCheck,
    Instruction,
    Label,
    Maintainer,
    OnBuild,
    Shell,
    StopSignal,
    User,
    Volume,
    Workdir,
)
from wherry.build.variables import ExpansionError, Use, expand, expand_words, go_quote
from wherry.spec.digest import Digest
from wherry.spec.image import Config, Healthcheck, History, ImageConfig, RootFS, encode
from wherry.spec.moment import go_duration

T = TypeVar("T")

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_SHELL = ("/bin/sh", "-c")
COMMENT = "buildkit.dockerfile.v0"
PROXY_ARGS = frozenset(
    name for upper in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY") for name in (upper, upper.lower())
)
_SIGNALS = frozenset(
    "ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT SEGV STKFLT STOP SYS TERM TRAP TSTP TTIN TTOU "
    "URG USR1 USR2 VTALRM WINCH XCPU XFSZ".split()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A stage so far.

    ``key`` names what led to its files: a label or an unused argument is not part of it, so that changing one runs nothing again.
    ``trail`` names everything, for the times in the history. ``declared``: build arguments in order; ``args``: those with a value
    that no later ENV of the same name has replaced.
    """

    key: str
    trail: str
    config: Config
    platform: tuple[str, str, str]  # architecture, os, variant
    diff_ids: tuple[Digest, ...] = ()
    chain: str | None = None
    history: tuple[History, ...] = ()
    created: str | None = None
    author: str = ""
    args: Mapping[str, str] = field(default_factory=dict)
    declared: tuple[str, ...] = ()
    own_cmd: bool = False  # this stage has set CMD

    @property
    def environment(self) -> dict[str, str]:
        """The image's variables by name."""
        return dict(entry.partition("=")[::2] for entry in self.config.env or ())

    @property
    def values(self) -> dict[str, str]:
        """What ``$name`` means, also to a RUN: of an ARG and an ENV the later, as in BuildKit."""
        return {**self.environment, **self.args}

    @property
    def shell(self) -> tuple[str, ...]:
        return tuple(self.config.shell or DEFAULT_SHELL)

    @property
    def workdir(self) -> str:
        return self.config.working_dir or "/"

    def with_args(self, command: Command) -> tuple[str, ...]:
        """The words that are executed for a command in either form."""
        return (*self.shell, *command.args) if command.shell_form else command.args

    def image(self) -> ImageConfig:
        """The image config as of now."""
        architecture, system, variant = self.platform
        return ImageConfig(
            architecture=architecture,
            os=system,
            variant=variant,
            config=self.config,
            created=self.created,
            author=self.author,
            history=list(self.history),
            rootfs=RootFS(diff_ids=list(self.diff_ids)),
        )

    def encoded(self) -> bytes:
        return encode(self.image())


def start(config: ImageConfig | None, *, key: str, platform: tuple[str, str, str], chain: str | None) -> State:
    """The state after FROM; ``config`` None for scratch.  A base without PATH gets the default one."""
    settings = Config(working_dir="/") if config is None else config.settings
    env = list(settings.env or ())
    if not any(entry.startswith("PATH=") for entry in env):
        env.insert(0, f"PATH={DEFAULT_PATH}")
    settings = msgspec.structs.replace(settings, env=env, on_build=None)
    if config is None:
        return State(key=key, trail=key, config=settings, platform=platform)
    return State(
        key=key,
        trail=key,
        config=settings,
        platform=(config.architecture, config.platform.os, config.variant) if config.architecture else platform,
        diff_ids=tuple(config.rootfs.diff_ids),
        chain=chain,
        history=tuple(config.history or ()),
        created=config.created,
        author=config.author,
    )


def next_key(parent: str, parts: Mapping[str, Any]) -> str:
    """The name of a step: what it starts from and everything that could change what it does."""
    told = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(f"{parent}\0{told}".encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Expander:
    """Expands words of one instruction with the values from before it."""

    values: Mapping[str, str]
    escape: str
    instruction: Instruction
    use: Use = field(default_factory=Use)

    def one(self, word: str) -> str:
        return self._try(expand, word)

    def many(self, word: str) -> list[str]:
        return self._try(expand_words, word)

    def _try(self, function: Callable[..., T], word: str) -> T:
        try:
            return function(word, self.values, escape=self.escape, use=self.use)
        except ExpansionError as error:
            raise DockerfileError(str(error), self.instruction.line.lines) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What an instruction without files does: the config after it, the history line (empty: none), and what its key covers."""

    config: Config
    created_by: str
    parts: Mapping[str, Any]
    args: Mapping[str, str] | None = None
    declared: tuple[str, ...] | None = None
    author: str | None = None
    own_cmd: bool | None = None


def change(state: State, instruction: Instruction, given: Mapping[str, str | None], predefined: Mapping[str, str], escape: str) -> Change:
    """Apply an instruction that touches no file.  ``given``: --build-arg; ``predefined``: global and platform arguments.

    Raises DockerfileError.
    """
    expander = Expander(values=state.values, escape=escape, instruction=instruction)
    match instruction:
        case Arg():
            return _arg(state, instruction, expander, given, predefined)
        case Env():
            return _env(state, instruction, expander)
        case Label():
            return _label(state, instruction, expander)
        case Cmd():
            args = list(state.with_args(instruction))
            return _changed(state, instruction, "CMD " + _go_list(args), cmd=args, own_cmd=True)
        case Entrypoint():
            args = list(state.with_args(instruction))
            cmd = state.config.cmd if state.own_cmd else None
            return _changed(state, instruction, "ENTRYPOINT " + _go_list(args), entrypoint=args, cmd=cmd)
        case Expose():
            return _expose(state, instruction, expander)
        case Volume():
            paths = [expander.one(path) for path in instruction.paths]
            if "" in paths:
                raise DockerfileError("VOLUME specified can not be an empty string", instruction.line.lines)
            volumes = {**(state.config.volumes or {}), **{path: {} for path in paths}}
            return _changed(state, instruction, f"VOLUME [{' '.join(paths)}]", volumes=volumes)
        case User():
            user = expander.one(instruction.user)
            return _changed(state, instruction, f"USER {user}", user=user)
        case Shell():
            return _changed(state, instruction, f"SHELL [{' '.join(instruction.args)}]", shell=list(instruction.args))
        case StopSignal():
            signal = expander.one(instruction.signal)
            _check_signal(signal, instruction)
            return _changed(state, instruction, f"STOPSIGNAL {signal}", stop_signal=signal)
        case HealthCheck():
            return _health_check(state, instruction)
        case OnBuild():
            triggers = [*(state.config.on_build or ()), instruction.trigger]
            made = _changed(state, instruction, f"ONBUILD {instruction.trigger}", on_build=triggers)
            return replace(made, created_by="")
        case Maintainer():
            made = _changed(state, instruction, f"MAINTAINER {instruction.author}")
            return replace(made, author=instruction.author)
    raise TypeError(f"not an instruction about settings: {instruction}")


def workdir_of(state: State, instruction: Workdir, escape: str) -> str:
    """The absolute path that WORKDIR names."""
    path = Expander(values=state.values, escape=escape, instruction=instruction).one(instruction.path)
    return posixpath.normpath(posixpath.join("/", state.workdir, path)).replace("//", "/")


def advance(state: State, made: Change, trail: str, created: str, *, empty: bool = True) -> State:
    """The state after ``made``; ``trail`` as `next_key` gave it."""
    line = History(created=created, created_by=made.created_by, comment=COMMENT, empty_layer=empty)
    return replace(
        state,
        trail=trail,
        config=made.config,
        created=created,
        history=(*state.history, line) if made.created_by else state.history,
        args=state.args if made.args is None else made.args,
        declared=state.declared if made.declared is None else made.declared,
        author=state.author if made.author is None else made.author,
        own_cmd=state.own_cmd if made.own_cmd is None else made.own_cmd,
    )


def plain_change(state: State, created_by: str, parts: Mapping[str, Any], **changes: Any) -> Change:
    """A change by name of config fields."""
    return Change(config=msgspec.structs.replace(state.config, **changes), created_by=created_by, parts=parts)


def _changed(state: State, instruction: Instruction, created_by: str, *, own_cmd: bool | None = None, **changes: Any) -> Change:
    made = plain_change(state, created_by, {"instruction": instruction.line.name, "effect": created_by}, **changes)
    return made if own_cmd is None else replace(made, own_cmd=own_cmd)


def _arg(state: State, instruction: Arg, expander: Expander, given: Mapping[str, str | None], predefined: Mapping[str, str]) -> Change:
    args = dict(state.args)
    shown: list[str] = []
    for name, default in instruction.pairs:
        value = given.get(name)
        if value is None:
            value = expander.one(default) if default is not None else predefined.get(name)
        shown.append(name if value is None else f"{name}={value}")
        if value is not None:
            args[name] = value
    declared = tuple(dict.fromkeys([*state.declared, *(name for name, _ in instruction.pairs)]))
    text = "ARG " + " ".join(shown)
    parts = {"instruction": "ARG", "names": sorted(name for name, _ in instruction.pairs), "effect": text}
    return Change(config=state.config, created_by=text, parts=parts, args=args, declared=declared)


def _env(state: State, instruction: Env, expander: Expander) -> Change:
    env = list(state.config.env or ())
    shown: list[str] = []
    for name, value in instruction.pairs:
        entry = f"{expander.one(name)}={expander.one(value)}"
        shown.append(entry)
        prefix = entry.partition("=")[0] + "="
        for number, old in enumerate(env):
            if old.startswith(prefix):
                env[number] = entry
                break
        else:
            env.append(entry)
    made = plain_change(state, "ENV " + " ".join(shown), {"instruction": "ENV", "effect": shown}, env=env)
    names = {entry.partition("=")[0] for entry in shown}
    return replace(made, args={name: value for name, value in state.args.items() if name not in names})


def _label(state: State, instruction: Label, expander: Expander) -> Change:
    pairs = [(expander.one(name), expander.one(value)) for name, value in instruction.pairs]
    return label_change(state, pairs)


def label_change(state: State, pairs: Sequence[tuple[str, str]]) -> Change:
    """Labels added: by LABEL, or by the request."""
    text = "LABEL " + " ".join(f"{name}={value}" for name, value in pairs)
    parts = {"instruction": "LABEL", "effect": [list(pair) for pair in pairs]}
    return plain_change(state, text, parts, labels={**(state.config.labels or {}), **dict(pairs)})


def _expose(state: State, instruction: Expose, expander: Expander) -> Change:
    ports: list[str] = []
    for word in instruction.ports:
        for text in expander.many(word):
            ports.extend(parse_ports(text, instruction))
    ports = sorted(set(ports), key=lambda port: (int(port.split("/")[0]), port))
    exposed = {**(state.config.exposed_ports or {}), **{port: {} for port in ports}}
    return _changed(state, instruction, f"EXPOSE [{' '.join(ports)}]", exposed_ports=exposed)


def parse_ports(text: str, instruction: Instruction) -> list[str]:
    """``80``, ``90-92/udp`` as ``port/protocol`` each; a host address or port in front is dropped, as Docker does."""
    ports, _, protocol = text.partition("/")
    protocol = protocol.lower() or "tcp"
    if protocol not in ("tcp", "udp", "sctp"):
        raise DockerfileError(f'invalid port: "{text}": invalid proto: {protocol}', instruction.line.lines)
    span = ports.rpartition(":")[2]
    match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", span)
    low, high = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if not low <= high <= 65535:
        raise DockerfileError(f"invalid containerPort: {span}", instruction.line.lines)
    return [f"{port}/{protocol}" for port in range(low, high + 1)]


def _check_signal(signal: str, instruction: Instruction) -> None:
    if signal.isascii() and signal.isdigit() and 0 < int(signal) <= 64:
        return
    name = signal.upper().removeprefix("SIG")
    if name in _SIGNALS or re.fullmatch(r"RTMIN(\+([1-9]|1[0-5]))?|RTMAX(-([1-9]|1[0-4]))?", name):
        return
    raise DockerfileError(f"invalid signal: {signal}", instruction.line.lines)


def _health_check(state: State, instruction: HealthCheck) -> Change:
    check = Healthcheck(
        test=list(instruction.test),
        interval=instruction.interval,
        timeout=instruction.timeout,
        start_period=instruction.start_period,
        start_interval=instruction.start_interval,
        retries=instruction.retries,
    )
    times = (check.interval, check.timeout, check.start_period, check.start_interval)
    shown = " ".join(f'"{go_duration(time)}"' for time in times)
    text = f"HEALTHCHECK &{{{_go_list(instruction.test)} {shown} {_go_rune(check.retries)}}}"
    return _changed(state, instruction, text, healthcheck=check)


def _go_list(words: Sequence[str]) -> str:
    return "[" + " ".join(go_quote(word) for word in words) + "]"


def _go_rune(number: int) -> str:
    if number < 32 or number == 127:
        return f"'\\x{number:02x}'"
    return f"'{chr(number)}'" if number < 0x110000 else "'\ufffd'"
