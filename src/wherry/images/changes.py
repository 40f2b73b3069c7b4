"""The ``--change`` of commit and import: a few Dockerfile instructions that alter an image's config.

``apply_changes(config, ["CMD [\\"sh\\"]"])``.  Source: Engine API 1.51 ImageCommit and ImageCreate, ``changes``; messages of dockerd 28.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from wherry.errors import InvalidRequest
from wherry.spec.image import Config, Healthcheck

ALLOWED = frozenset({"CMD", "ENTRYPOINT", "ENV", "EXPOSE", "HEALTHCHECK", "LABEL", "ONBUILD", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"})
_VARIABLE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)(?:(:?[-+])([^}]*))?\})")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_NANOSECONDS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_REAL_TIME = re.compile(r"(?:RTMIN\+|RTMAX-)(\d{1,2})")
_SIGNALS = frozenset(
    "ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT SEGV STKFLT STOP SYS TERM TRAP TSTP TTIN TTOU "
    "URG USR1 USR2 VTALRM WINCH XCPU XFSZ RTMIN RTMAX".split()
)


def apply_changes(config: Config, changes: Iterable[str]) -> Config:
    """``config`` after the instructions, in order.  Raises InvalidRequest in Docker's words."""
    changed = _Changed(config)
    given = list(changes)
    lines = list(_lines("\n".join(given)))
    if given and not lines:
        raise InvalidRequest("file with no instructions")
    for line in lines:
        word, _, rest = line.partition(" ")
        name = word.upper()
        if name not in ALLOWED:
            raise InvalidRequest(f"{name} is not a valid change command")
        changed.apply(name, rest.strip())
    return changed.config


def merged(asked: Config, base: Config) -> Config:
    """``asked``, completed from ``base``: what a commit keeps of its container's config.  Source: dockerd 28."""
    names = {item.partition("=")[0] for item in asked.env or ()}
    env = [*(asked.env or ()), *(item for item in base.env or () if item.partition("=")[0] not in names)]
    entrypoint, cmd = asked.entrypoint, asked.cmd
    if not entrypoint:
        cmd = cmd or base.cmd
        entrypoint = entrypoint or base.entrypoint
    return msgspec.structs.replace(
        asked,
        user=asked.user or base.user,
        exposed_ports={**(base.exposed_ports or {}), **(asked.exposed_ports or {})} or None,
        env=env or None,
        labels={**(base.labels or {}), **(asked.labels or {})} or None,
        entrypoint=entrypoint,
        cmd=cmd,
        healthcheck=_merged_healthcheck(asked.healthcheck, base.healthcheck),
        working_dir=asked.working_dir or base.working_dir,
        volumes={**(base.volumes or {}), **(asked.volumes or {})} or None,
        stop_signal=asked.stop_signal or base.stop_signal,
    )


def _merged_healthcheck(asked: Healthcheck | None, base: Healthcheck | None) -> Healthcheck | None:
    if asked is None or base is None:
        return asked or base
    return Healthcheck(**{name: getattr(asked, name) or getattr(base, name) for name in Healthcheck.__struct_fields__})


def is_signal(text: str) -> bool:
    """Whether ``text`` names a signal: TERM, SIGTERM, 15, RTMIN+3."""
    upper = text.upper()
    if upper.isdecimal():
        return 0 < int(upper[:4]) <= 64
    name = upper.removeprefix("SIG")
    found = _REAL_TIME.fullmatch(name)
    return name in _SIGNALS or (found is not None and int(found[1]) <= 30)


class _Changed:
    """A config under change, and whether CMD was among the changes."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._command_set = False

    def apply(self, name: str, rest: str) -> None:
        if not rest and name not in ("CMD", "ENTRYPOINT"):
            raise InvalidRequest(f"{name} requires {'exactly' if name in _SINGLE else 'at least'} one argument")
        getattr(self, f"_{name.lower()}")(rest)

    def _set(self, **fields: Any) -> None:
        self.config = msgspec.structs.replace(self.config, **fields)

    def _cmd(self, rest: str) -> None:
        self._command_set = True
        self._set(cmd=self._command(rest) if rest else self._shell())

    def _entrypoint(self, rest: str) -> None:
        self._set(entrypoint=self._command(rest))
        if not self._command_set:
            self._set(cmd=None)

    def _env(self, rest: str) -> None:
        env = {entry.partition("=")[0]: entry for entry in self.config.env or ()}
        for key, value in self._pairs("ENV", rest):
            env[key] = f"{key}={value}"
        self._set(env=list(env.values()))

    def _label(self, rest: str) -> None:
        self._set(labels={**(self.config.labels or {}), **dict(self._pairs("LABEL", rest))})

    def _expose(self, rest: str) -> None:
        ports = dict(self.config.exposed_ports or {})
        for word in self._words(rest):
            ports |= {port: {} for port in _ports(word)}
        self._set(exposed_ports=ports)

    def _volume(self, rest: str) -> None:
        paths = [path.strip() for path in _json_words(rest) or self._words(rest)]
        if not all(paths):
            raise InvalidRequest("VOLUME specified can not be an empty string")
        self._set(volumes={**(self.config.volumes or {}), **{path: {} for path in paths}})

    def _user(self, rest: str) -> None:
        self._set(user=self._text(rest))

    def _workdir(self, rest: str) -> None:
        joined = posixpath.normpath(posixpath.join("/", self.config.working_dir, self._text(rest)))
        self._set(working_dir="/" + joined.lstrip("/"))

    def _stopsignal(self, rest: str) -> None:
        signal = self._text(rest)
        if not is_signal(signal):
            raise InvalidRequest(f"invalid signal: {signal}")
        self._set(stop_signal=signal)

    def _onbuild(self, rest: str) -> None:
        trigger = rest.partition(" ")[0].upper()
        if trigger == "ONBUILD":
            raise InvalidRequest("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
        if trigger in ("MAINTAINER", "FROM"):
            raise InvalidRequest(f"{trigger} isn't allowed as an ONBUILD trigger")
        self._set(on_build=[*(self.config.on_build or ()), rest])

    def _healthcheck(self, rest: str) -> None:
        flags: dict[str, str] = {}
        while rest.startswith("--"):
            flag, _, rest = rest.partition(" ")
            rest = rest.lstrip()
            key, _, value = flag[2:].partition("=")
            if key not in ("interval", "timeout", "start-period", "start-interval", "retries"):
                raise InvalidRequest(f"unknown flag: --{key}")
            flags[key] = value
        kind, _, command = rest.partition(" ")
        command = command.strip()
        if kind.upper() == "NONE":
            if command or flags:
                raise InvalidRequest("HEALTHCHECK NONE takes no arguments")
            self._set(healthcheck=Healthcheck(test=["NONE"]))
            return
        if kind.upper() != "CMD":
            raise InvalidRequest(f'Unknown type "{kind.upper()}" in HEALTHCHECK (try CMD)')
        if not command:
            raise InvalidRequest("Missing command after HEALTHCHECK CMD")
        words = _json_words(command)
        retries = flags.get("retries", "0")
        if not retries.isdecimal():
            raise InvalidRequest(f'strconv.ParseInt: parsing "{retries}": invalid syntax')
        self._set(
            healthcheck=Healthcheck(
                test=["CMD", *words] if words is not None else ["CMD-SHELL", command],
                interval=_duration("interval", flags),
                timeout=_duration("timeout", flags),
                start_period=_duration("start-period", flags),
                start_interval=_duration("start-interval", flags),
                retries=int(retries),
            )
        )

    def _command(self, rest: str) -> list[str] | None:
        words = _json_words(rest)
        if words is not None:
            return words
        return [*self._shell(), rest] if rest else None

    def _shell(self) -> list[str]:
        return self.config.shell or ["/bin/sh", "-c"]

    def _pairs(self, name: str, rest: str) -> list[tuple[str, str]]:
        """``a=b "c d"=e``, or the old ``a the rest``."""
        raw = list(_split(rest))
        if "=" not in raw[0]:
            key, _, value = rest.partition(" ")
            if not value.strip():
                raise InvalidRequest(f"{name} must have two arguments")
            return [(self._text(key), self._text(value.strip()))]
        pairs = []
        for word in raw:
            if "=" not in word:
                raise InvalidRequest(f"Syntax error - can't find = in {json.dumps(word)}. Must be of the form: name=value")
            key, _, value = word.partition("=")
            pairs.append((self._text(key), self._text(value)))
        if not all(key for key, _ in pairs):
            raise InvalidRequest(f"{name} names can not be blank")
        return pairs

    def _words(self, rest: str) -> list[str]:
        return [self._text(word) for word in _split(rest)]

    def _text(self, word: str) -> str:
        """Without its quotes and backslashes, and with the image's variables in place."""
        values = dict(entry.partition("=")[::2] for entry in self.config.env or ())
        out = []
        position = 0
        quote = ""
        while position < len(word):
            char = word[position]
            if quote == "'" and char != "'":
                out.append(char)
            elif char in "\"'" and quote in ("", char):
                quote = "" if quote else char
            elif char == "\\" and position + 1 < len(word):
                following = word[position + 1]
                out.append(following if not quote or following in '"$\\' else "\\" + following)
                position += 1
            elif char == "$" and (found := _VARIABLE.match(word, position)):
                out.append(_expanded(found, values))
                position = found.end() - 1
            else:
                out.append(char)
            position += 1
        return "".join(out)


_SINGLE = frozenset({"USER", "WORKDIR", "STOPSIGNAL"})


def _lines(text: str) -> Iterator[str]:
    """Logical lines: comments and blank ones dropped, backslash-newline joined."""
    held = ""
    for line in text.split("\n"):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        if stripped.endswith("\\"):
            held += stripped[:-1]
            continue
        yield (held + stripped).replace("\t", " ")
        held = ""
    if held:
        yield held


def _split(text: str) -> Iterator[str]:
    """Words at blanks that are neither quoted nor escaped; quotes and backslashes are kept."""
    word = ""
    quote = ""
    position = 0
    while position < len(text):
        char = text[position]
        if char == "\\" and quote != "'" and position + 1 < len(text):
            word += text[position : position + 2]
            position += 2
            continue
        if char in "\"'" and quote in ("", char):
            quote = "" if quote else char
        if char == " " and not quote:
            if word:
                yield word
            word = ""
        else:
            word += char
        position += 1
    if word:
        yield word


def _json_words(text: str) -> list[str] | None:
    """An exec form, or None for what is no JSON list.  Raises InvalidRequest for one of other things than strings."""
    if not text.startswith("["):
        return None
    try:
        words = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(words, list):
        return None
    if not all(isinstance(word, str) for word in words):
        raise InvalidRequest("when using JSON array syntax, arrays must be comprised of strings only")
    return words


def _expanded(found: re.Match[str], values: dict[str, str]) -> str:
    name, rule, other = found[1] or found[2], found[3], found[4] or ""
    value = values.get(name)
    present = value is not None if rule in ("-", "+") else bool(value)
    if rule and rule.endswith("-"):
        return value if present and value is not None else other
    if rule and rule.endswith("+"):
        return other if present else ""
    return value or ""


def _ports(word: str) -> list[str]:
    """The container's ports in ``[[address:]port:]first[-last][/protocol]``.  Raises InvalidRequest.  Source: go-connections, nat."""
    text, _, protocol = word.partition("/")
    text = text.rpartition(":")[2]
    protocol = protocol.lower() or "tcp"
    if not word:  # a variable that is not set
        return []
    if not text:
        raise InvalidRequest(f"No port specified: {word}<empty>")
    if protocol not in ("tcp", "udp", "sctp"):
        raise InvalidRequest(f"Invalid proto: {word.partition('/')[2]}")
    first, _, last = text.partition("-")
    last = last.partition("-")[0] or first
    if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last) <= 65535):
        raise InvalidRequest(f"Invalid containerPort: {text}")
    return [f"{port}/{protocol}" for port in range(int(first), int(last) + 1)]


def _duration(name: str, flags: dict[str, str]) -> int:
    text = flags.get(name)
    if text is None:
        return 0
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise InvalidRequest(f'time: invalid duration "{text}"')
    value = sum(int(float(number) * _NANOSECONDS[unit]) for number, unit in parts)
    if 0 < value < 10**6:
        raise InvalidRequest(f"Interval {json.dumps(name)} cannot be less than 1ms")
    return value
