"""The stages of a Dockerfile and what each needs: which are built, in what order, from what.

A stage depends on another by FROM, COPY --from or RUN --mount=from=. Only what the target needs is built; independent stages may run
at the same time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wherry.build.failures import DockerfileError
from wherry.build.instructions import Arg, Copy, From, Instruction, Run, read
from wherry.build.parse import Document
from wherry.build.variables import ExpansionError, Use, expand
from wherry.spec import platform as platforms
from wherry.spec.reference import InvalidReference
from wherry.spec.reference import parse as parse_reference

SCRATCH = "scratch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One FROM and what follows.  ``base_stage``: index of the stage it starts from, else ``base_image`` (``scratch``: nothing)."""

    index: int
    name: str
    origin: From
    base_stage: int | None
    base_image: str
    platform: str
    instructions: tuple[Instruction, ...]

    @property
    def shown_name(self) -> str:
        return self.name or f"stage-{self.index}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """Stages up to the target.  ``needed``: indices in the order of the file; ``needs``: stage -> stages it copies or starts from."""

    stages: tuple[Stage, ...]
    target: int
    needed: tuple[int, ...]
    needs: Mapping[int, frozenset[int]]
    global_args: Mapping[str, str]
    global_lines: tuple[str, ...]  # the ARGs before the first FROM as written
    declared: frozenset[str]  # every name that an ARG of the file has, used or not
    escape: str

    @property
    def steps(self) -> int:
        """The ARGs before the first FROM and the instructions of all needed stages: the classic builder's ``Step n/steps``."""
        return len(self.global_lines) + sum(1 + len(self.stages[index].instructions) for index in self.needed)


def make_graph(document: Document, *, target: str, build_args: Mapping[str, str | None], platform_args: Mapping[str, str]) -> Graph:
    """Read all instructions and find the stages.  Raises DockerfileError."""
    escape = document.escape
    instructions = [read(line, escape) for line in document.lines]
    global_args, rest = _global_args(instructions, build_args, platform_args, escape)
    if not rest:
        raise DockerfileError("dockerfile contains no stages to build")
    stages = _stages(rest, global_args, escape)
    wanted = _target(stages, target)
    needs = {stage.index: _needs(stage, stages) for stage in stages[: wanted + 1]}
    needed = _reachable(wanted, needs, stages)
    declared = frozenset(name for instruction in instructions if isinstance(instruction, Arg) for name, _ in instruction.pairs)
    return Graph(
        stages=stages,
        target=wanted,
        needed=needed,
        needs=needs,
        global_args=global_args,
        global_lines=tuple(instruction.line.text for instruction in instructions[: len(instructions) - len(rest)]),
        declared=declared,
        escape=escape,
    )


def find_stage(name: str, stages: Sequence[Stage], before: int) -> int | None:
    """The stage called ``name`` (the last one so called) or numbered so, among those before ``before``."""
    if name.isascii() and name.isdigit():
        return int(name) if int(name) < before else None
    for stage in reversed(stages[:before]):
        if stage.name and stage.name == name.lower():
            return stage.index
    return None


def _global_args(
    instructions: list[Instruction], build_args: Mapping[str, str | None], platform_args: Mapping[str, str], escape: str
) -> tuple[dict[str, str], list[Instruction]]:
    values: dict[str, str] = dict(platform_args)
    use = Use()
    for number, instruction in enumerate(instructions):
        if isinstance(instruction, From):
            return values, instructions[number:]
        if not isinstance(instruction, Arg):
            raise DockerfileError("no build stage in current context", instruction.line.lines)
        for name, default in instruction.pairs:
            given = build_args.get(name)
            if given is not None:
                values[name] = given
            elif default is not None:
                values[name] = _expanded(default, values, instruction, escape, use)
    return values, []


def _expanded(word: str, values: Mapping[str, str], instruction: Instruction, escape: str, use: Use | None = None) -> str:
    try:
        return expand(word, values, escape=escape, use=use)
    except ExpansionError as error:
        raise DockerfileError(str(error), instruction.line.lines) from None


def _stages(instructions: list[Instruction], values: Mapping[str, str], escape: str) -> tuple[Stage, ...]:
    stages: list[Stage] = []
    starts = [number for number, instruction in enumerate(instructions) if isinstance(instruction, From)]
    for index, start in enumerate(starts):
        origin = instructions[start]
        assert isinstance(origin, From)
        end = starts[index + 1] if index + 1 < len(starts) else len(instructions)
        image = _expanded(origin.image, values, origin, escape)
        if not image:
            raise DockerfileError(f"base name ({origin.image}) should not be blank", origin.line.lines)
        base_stage = None if image.isdigit() else find_stage(image, stages, index)
        if base_stage is None and image != SCRATCH:
            _check_reference(image, origin)
        platform = _expanded(origin.platform, values, origin, escape)
        _check_platform(platform, origin)
        stages.append(
            Stage(
                index=index,
                name=origin.name,
                origin=origin,
                base_stage=base_stage,
                base_image="" if base_stage is not None else image,
                platform=platform,
                instructions=tuple(instructions[start + 1 : end]),
            )
        )
    return tuple(stages)


def _check_reference(image: str, origin: From) -> None:
    try:
        parse_reference(image)
    except InvalidReference as error:
        raise DockerfileError(f'failed to parse stage name "{image}": {error}', origin.line.lines) from None


def _check_platform(platform: str, origin: From) -> None:
    try:
        if platform:
            platforms.parse(platform)
    except platforms.InvalidPlatform as error:
        raise DockerfileError(f"failed to parse platform {platform}: {error}", origin.line.lines) from None


def _target(stages: Sequence[Stage], target: str) -> int:
    if not target:
        return len(stages) - 1
    found = find_stage(target, stages, len(stages))
    if found is None:
        raise DockerfileError(f'target stage "{target}" could not be found')
    return found


def _needs(stage: Stage, stages: Sequence[Stage]) -> frozenset[int]:
    needed = {stage.base_stage} if stage.base_stage is not None else set()
    for instruction in stage.instructions:
        names = [instruction.source_stage] if isinstance(instruction, Copy) else []
        if isinstance(instruction, Run):
            names = [value for mount in instruction.mounts for key, value in _options(mount) if key == "from"]
        for name in filter(None, names):
            needed |= _checked(name, stage, stages, instruction)
    return frozenset(needed)


def _options(mount: str) -> list[tuple[str, str]]:
    return [(key.strip().lower(), value) for key, _, value in (part.partition("=") for part in mount.split(","))]


def _checked(name: str, stage: Stage, stages: Sequence[Stage], instruction: Instruction) -> set[int]:
    if name.isascii() and name.isdigit() and int(name) >= len(stages):
        raise DockerfileError(f"invalid stage index {name}", instruction.line.lines)
    if name == str(stage.index) or (stage.name and name.lower() == stage.name):
        raise DockerfileError(f"circular dependency detected on stage: {stage.shown_name}", instruction.line.lines)
    if name.isascii() and name.isdigit() and int(name) > stage.index:
        raise DockerfileError(f"invalid stage index {name}", instruction.line.lines)
    found = find_stage(name, stages, stage.index)
    return set() if found is None else {found}


def _reachable(target: int, needs: Mapping[int, frozenset[int]], stages: Sequence[Stage]) -> tuple[int, ...]:
    seen: set[int] = set()
    waiting = [target]
    while waiting:
        index = waiting.pop()
        if index not in seen:
            seen.add(index)
            waiting.extend(needs[index])
    return tuple(sorted(seen))
