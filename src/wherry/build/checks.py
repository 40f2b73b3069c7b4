"""Remarks about a Dockerfile that builds but could be better: BuildKit's checks, by their names and in their words.

Pure: a document and its instructions in, remarks out. Rules that need the base image's config or the context are not here.
Source: BuildKit's build checks, as seen on Docker 28.5.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from wherry.build.failures import DockerfileError
from wherry.build.instructions import (
    Arg,
    Cmd,
    Entrypoint,
    Env,
    Expose,
    From,
    HealthCheck,
    Instruction,
    Label,
    Maintainer,
    Workdir,
)
from wherry.build.parse import Document

EMPTY_CONTINUATION = "NoEmptyContinuation"
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})  # Go's strconv.ParseBool
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})
_RESERVED = frozenset({"scratch", "context"})
_SECRET_WORDS = frozenset("apikey auth credential credentials key password pword passwd secret token".split())
_HARMLESS_WORDS = frozenset({"public", "file", "version"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """One finding; ``str()`` is how BuildKit lists it."""

    rule: str
    message: str
    lines: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.rule}: {self.message} (line {self.lines[0]})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a ``# check=`` directive says.  ``skipped``: rules in lower case, or ``all``; ``error``: a remark fails the build."""

    skipped: frozenset[str] = frozenset()
    error: bool = False


def options(document: Document) -> Options:
    """The document's directive.  Raises DockerfileError in BuildKit's words."""
    found = Options()
    for part in filter(None, document.directives.get("check", "").split(";")):
        name, equals, value = (word.strip() for word in part.partition("="))
        if not equals or name not in ("skip", "error", "experimental"):
            raise _no_option(f'invalid check option "{name}"')
        if name == "skip":
            found = replace(found, skipped=frozenset(rule.strip().lower() for rule in value.split(",")))
        elif name == "error":
            if value not in _TRUE | _FALSE:
                fault = f'strconv.ParseBool: parsing "{value}": invalid syntax'
                raise _no_option(f'failed to parse check option "{part.strip()}": {fault}')
            found = replace(found, error=value in _TRUE)
    return found


def _no_option(message: str) -> DockerfileError:
    return DockerfileError(f"failed to parse check options: {message}")


def check(document: Document, instructions: Sequence[Instruction]) -> tuple[Remark, ...]:
    """All remarks in the order of the file, without those that the directive turns off.  Raises DockerfileError."""
    skipped = options(document).skipped
    if "all" in skipped:
        return ()
    found = [*_of_lines(document), *_of_stages(instructions), *_of_instructions(instructions), *_repeated(instructions)]
    return tuple(sorted((remark for remark in found if remark.rule.lower() not in skipped), key=lambda remark: remark.lines))


def violation(remarks: Iterable[Remark]) -> str:
    """What a build fails with whose directive says so."""
    return "lint violation found for rules: " + ", ".join(dict.fromkeys(remark.rule for remark in remarks))


def _of_lines(document: Document) -> Iterator[Remark]:
    for _, last in document.empty_continuations:
        yield Remark(rule=EMPTY_CONTINUATION, message="Empty continuation line", lines=(last, last))
    keywords = [line.keyword for line in document.lines]
    upper = sum(keyword.isupper() for keyword in keywords) * 2 >= len(keywords)
    for line in document.lines:
        if line.keyword != (line.keyword.upper() if upper else line.keyword.lower()):
            case = "uppercase" if upper else "lowercase"
            message = f"Command '{line.keyword}' should match the case of the command majority ({case})"
            yield Remark(rule="ConsistentInstructionCasing", message=message, lines=line.lines)


def _of_stages(instructions: Sequence[Instruction]) -> Iterator[Remark]:
    seen: set[str] = set()
    for origin in instructions:
        if not isinstance(origin, From):
            continue
        if re.fullmatch(r"[^$]+/[^$]+", origin.platform):
            message = f'FROM --platform flag should not use constant value "{origin.platform}"'
            yield Remark(rule="FromPlatformFlagConstDisallowed", message=message, lines=origin.line.lines)
        if origin.name:
            yield from _of_name(origin, seen)
            seen.add(origin.name)


def _of_name(origin: From, seen: set[str]) -> Iterator[Remark]:
    lines = origin.line.lines
    word = origin.line.rest.split()[1]
    if word.isupper() != origin.line.keyword.isupper():
        yield Remark(rule="FromAsCasing", message=f"'{word}' and '{origin.line.keyword}' keywords' casing do not match", lines=lines)
    if origin.written_name != origin.name:
        yield Remark(rule="StageNameCasing", message=f"Stage name '{origin.written_name}' should be lowercase", lines=lines)
    if origin.name in _RESERVED:
        message = f'Stage name should not use the same name as reserved stage "{origin.name}"'
        yield Remark(rule="ReservedStageName", message=message, lines=lines)
    if origin.name in seen:
        yield Remark(rule="DuplicateStageName", message=f'Duplicate stage name "{origin.name}", stage names should be unique', lines=lines)


def _of_instructions(instructions: Sequence[Instruction]) -> Iterator[Remark]:
    absolute = False
    for instruction in instructions:
        match instruction:
            case From():
                absolute = False
            case Workdir(path=path):
                if not absolute and not path.startswith(("/", "$")):
                    message = f'Relative workdir "{path}" can have unexpected results if the base image changes'
                    yield Remark(rule="WorkdirRelativePath", message=message, lines=instruction.line.lines)
                absolute = absolute or path.startswith("/")
            case _:
                yield from _of_one(instruction)


def _of_one(instruction: Instruction) -> Iterator[Remark]:
    lines, name = instruction.line.lines, instruction.line.name
    match instruction:
        case Cmd(shell_form=True) | Entrypoint(shell_form=True):
            message = f"JSON arguments recommended for {name} to prevent unintended behavior related to OS signals"
            yield Remark(rule="JSONArgsRecommended", message=message, lines=lines)
        case Maintainer():
            yield Remark(rule="MaintainerDeprecated", message="Maintainer instruction is deprecated in favor of using label", lines=lines)
        case Env(legacy=True) | Label(legacy=True):
            message = f'"{name} key=value" should be used instead of legacy "{name} key value" format'
            yield Remark(rule="LegacyKeyValueFormat", message=message, lines=lines)
        case Expose(ports=ports):
            yield from _of_ports(ports, lines)
    if isinstance(instruction, Arg | Env):
        for variable, _ in instruction.pairs:
            if _is_secret(variable):
                message = f'Do not use ARG or ENV instructions for sensitive data ({name} "{variable}")'
                yield Remark(rule="SecretsUsedInArgOrEnv", message=message, lines=lines)


def _of_ports(ports: Sequence[str], lines: tuple[int, int]) -> Iterator[Remark]:
    for port in ports:
        number, _, protocol = port.partition("/")
        if protocol != protocol.lower():
            message = f"Defined protocol '{port}' in EXPOSE instruction should be lowercase"
            yield Remark(rule="ExposeProtoCasing", message=message, lines=lines)
        if ":" in number and "$" not in number:
            message = f"EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
            yield Remark(rule="ExposeInvalidFormat", message=message, lines=lines)


def _is_secret(name: str) -> bool:
    words = set(name.lower().split("_"))
    return bool(words & _SECRET_WORDS) and not words & _HARMLESS_WORDS


def _repeated(instructions: Sequence[Instruction]) -> Iterator[Remark]:
    """All but the last CMD, ENTRYPOINT and HEALTHCHECK of a stage have no effect."""
    stage = 0
    counted: list[tuple[tuple[int, str], Instruction]] = []
    for instruction in instructions:
        stage += isinstance(instruction, From)
        if isinstance(instruction, Cmd | Entrypoint | HealthCheck):
            counted.append(((stage, instruction.line.name), instruction))
    times = Counter(key for key, _ in counted)
    for key, instruction in counted:
        times[key] -= 1
        if times[key]:
            name = key[1]
            message = f"Multiple {name} instructions should not be used in the same stage because only the last one will be used"
            yield Remark(rule="MultipleInstructionsDisallowed", message=message, lines=instruction.line.lines)
