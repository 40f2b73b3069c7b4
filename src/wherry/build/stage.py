"""One stage, instruction by instruction: what its key is, whether the cache has it, and if not, the step that makes it.

A step's key names the files before it and everything that can change what the step does; labels, ports and commands are in no key, so
that changing one runs nothing again, as in BuildKit.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from wherry.build.cache import Entry, explain, place_of
from wherry.build.copying import Copying, body, check_copy, copy_history, document_name
from wherry.build.failures import BuildFailed, DockerfileError
from wherry.build.graph import SCRATCH, Stage, find_stage
from wherry.build.inputs import CONTEXT, Inputs, Origin
from wherry.build.instructions import Copy, Instruction, Run, Workdir, read_trigger
from wherry.build.mounting import Mounting
from wherry.build.mounts import RunMount, read_mounts
from wherry.build.progress import Cached, Failed, Finished, Output, Pulling, Ran, Started, Step, Why
from wherry.build.services import BaseImage
from wherry.build.state import (
    PROXY_ARGS,
    Change,
    Expander,
    State,
    advance,
    change,
    next_key,
    plain_change,
    start,
    workdir_of,
)
from wherry.build.steps import Layer, RunStep, Watch, joined
from wherry.build.work import Work, now
from wherry.errors import EngineError, NotFound
from wherry.spec.digest import Digest, chain_id, sha256
from wherry.spec.image import CONFIG_LIMIT
from wherry.tree.plan import Plan

_MAKES_FILES = (Run, Copy, Workdir)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A step that makes files, resolved but not carried out: ``parts`` make its key, ``carry_out`` does it."""

    parts: Mapping[str, Any]
    change: Change
    carry_out: Callable[[], Awaitable[Layer]]


class StageBuild:
    """Builds one stage.  ``other``: the final state of an earlier stage."""

    def __init__(self, work: Work, index: int, other: Callable[[int], Awaitable[State]]) -> None:
        self.work = work
        self.stage: Stage = work.graph.stages[index]
        self.other = other
        self.mounting = Mounting(work, self._origin)
        self.step = self._step(0, "", files=False)
        self.began = 0.0

    async def build(self) -> State:
        """The stage's final state.  Raises BuildFailed, DockerfileError, NotFound."""
        state = await self._from()
        self._finished(state, cached=False, last=not self.stage.instructions, empty=self.stage.base_image == SCRATCH)
        place = self._first_place()
        for number, instruction in enumerate(self.stage.instructions, 1):
            makes_files = isinstance(instruction, _MAKES_FILES)
            place += makes_files
            self.step = self._step(number, instruction.line.text, files=makes_files, place=place)
            self.began = time.monotonic()
            self._tell(Started(step=self.step))
            await asyncio.sleep(0)  # a file of many thousand settings leaves others their turn
            state, cached = await self._guarded(self._instruction(state, instruction, number), instruction)
            self._finished(state, cached=cached, last=number == len(self.stage.instructions))
        return state

    async def _from(self) -> State:
        origin = self.stage.origin
        self.step = self._step(0, origin.line.text, files=bool(self._first_place()), place=1)
        self.began = time.monotonic()
        self._tell(Started(step=self.step))
        state, _ = await self._guarded(self._base(), origin)
        triggers = tuple(state.config.on_build or ())
        if triggers:
            state = replace(state, config=plain_change(state, "", {}, on_build=None).config)
            self._write(f"# Executing {len(triggers)} build trigger{'s' if len(triggers) > 1 else ''}\n".encode(), False)
        for number, text in enumerate(triggers):
            instruction = read_trigger(text, origin.line, self.work.graph.escape)
            state, _ = await self._guarded(self._instruction(state, instruction, -1 - number), instruction)
        return state

    async def _base(self) -> tuple[State, bool]:
        if self.stage.base_stage is not None:
            return replace(await self.other(self.stage.base_stage), own_cmd=False), True
        own = self.work.arguments
        target = (own["TARGETARCH"], own["TARGETOS"], own["TARGETVARIANT"])
        if self.stage.base_image == SCRATCH:
            return start(None, key=SCRATCH, platform=target, chain=None), True
        image = await self._image(self.stage.base_image, self.stage.platform or self.work.request.platform)
        chain = str(image.chain_ids[-1]) if image.chain_ids else None
        state = start(image.config, key=f"image:{image.id}", platform=target, chain=chain)
        return replace(state, config=plain_change(state, "", {}, on_build=image.config.settings.on_build).config), True

    async def _image(self, reference: str, platform: str = "") -> BaseImage:
        """A base image, pulled when it is not there, once for all stages that ask."""
        key = f"{reference} {platform}"
        task = self.work.images.get(key)
        if task is None:
            task = self.work.images[key] = asyncio.ensure_future(self._resolve(reference, platform))
        return await task

    async def _resolve(self, reference: str, platform: str) -> BaseImage:
        services = self.work.services
        if not self.work.request.pull:
            with contextlib.suppress(NotFound):
                return services.resolve(reference)
        async for record in services.pull(reference, platform=platform):
            self._tell(Pulling(step=self.step, record=record))
        return services.resolve(reference)

    async def _instruction(self, state: State, instruction: Instruction, number: int) -> tuple[State, bool]:
        """The state after one instruction, and whether it came from the cache."""
        match instruction:
            case Run():
                ready = await self._run(state, instruction)
            case Copy():
                ready = await self._copy(state, instruction)
            case Workdir():
                ready = self._workdir(state, instruction)
            case _:
                return self._setting(state, instruction)
        return await self._make(state, ready, number)

    def _setting(self, state: State, instruction: Instruction) -> tuple[State, bool]:
        """An instruction about the config: only its time is in the cache."""
        work = self.work
        predefined = {**work.arguments, **work.graph.global_args}
        made = change(state, instruction, work.request.build_args, predefined, work.graph.escape)
        trail = next_key(state.trail, made.parts)
        entry = None if work.request.no_cache else work.cache.get(trail)
        if entry is None:
            created = now()
            work.cache.put(trail, Entry(kind="setting", created=created))
            return advance(state, made, trail, created), False
        self._tell(Cached(step=self.step))
        return advance(state, made, trail, entry.created), True

    async def _make(self, state: State, ready: Ready, number: int) -> tuple[State, bool]:
        work = self.work
        key = next_key(state.key, ready.parts)
        place = place_of(work.name, self.stage.shown_name, number)
        work.counted += 1
        entry = None if work.request.no_cache else work.cache.get(key)
        if entry is not None and _stands_on(state, entry):
            work.reused += 1
            self._tell(Cached(step=self.step))
            return _after(state, ready, key, entry), True
        self._tell(Why(step=self.step, reason=self._reason(place, key, state, ready)))
        layer = await ready.carry_out()
        entry = Entry(
            kind="same" if layer.chain is None else "layer",
            created=now(),
            description=ready.change.created_by,
            parent=state.key,
            chain=layer.chain or "",
            diff_id=str(layer.diff_id or ""),
            size_bytes=layer.size_bytes,
        )
        work.cache.put(key, entry)
        work.cache.remember(place, {"parent": state.key, "parts": dict(ready.parts)})
        work.cache.flush()
        return _after(state, ready, key, entry), False

    def _reason(self, place: str, key: str, state: State, ready: Ready) -> str:
        if self.work.request.no_cache:
            return "the cache was not to be used (--no-cache)"
        before = self.work.cache.was(place)
        if before is None:
            return explain(None, ready.parts, same_parent=True)
        return explain(before["parts"], dict(ready.parts), same_parent=before["parent"] == state.key)

    def _workdir(self, state: State, instruction: Workdir) -> Ready:
        path = workdir_of(state, instruction, self.work.graph.escape)
        user = state.config.user
        parts = {"instruction": "WORKDIR", "destination": path, "user": user}
        made = plain_change(state, f"WORKDIR {path}", parts, working_dir=path)
        return Ready(parts=parts, change=made, carry_out=lambda: self.work.steps.workdir(state, path, user))

    async def _run(self, state: State, instruction: Run) -> Ready:
        expander = Expander(values=state.values, escape=self.work.graph.escape, instruction=instruction)
        asked = read_mounts(instruction, expander, state.workdir)
        args, script = _run_words(state, instruction)
        env = state.values
        told = [[*mount.told(), await self._mount_digest(mount)] for mount in asked]
        network = self._network(instruction)
        shown = [f"{name}={state.values.get(name, '')}" for name in state.declared]
        words = [f"|{len(shown)}", *shown] if shown else []
        parts = {
            "instruction": "RUN",
            "command": [*args, *([script[1]] if script else [])],
            "env": env,
            "user": state.config.user,
            "cwd": state.workdir,
            "mounts": told,
            "network": network,
            "hosts": list(self.work.request.extra_hosts),
        }
        step = RunStep(
            args=args,
            env=tuple(f"{name}={value}" for name, value in env.items()),
            cwd=state.workdir,
            user=state.config.user,
            network=network,
            mounts=lambda: self.mounting.mounted(asked, script),
        )
        made = plain_change(state, f"RUN {' '.join([*words, *args])} # buildkit", parts)
        watch = Watch(output=self._write, ran=self._ran)
        return Ready(parts=parts, change=made, carry_out=lambda: self._run_with(state, step, asked, watch))

    async def _run_with(self, state: State, step: RunStep, asked: Sequence[RunMount], watch: Watch) -> Layer:
        proxies = {name: value for name, value in self.work.request.build_args.items() if name in PROXY_ARGS and value is not None}
        extra = [f"{name}={value}" for name, value in proxies.items() if name not in state.values]
        for mount in asked:
            if mount.kind == "secret" and mount.env and mount.id in self.work.request.secrets:
                extra.append(f"{mount.env}={self.work.request.secrets[mount.id].decode('utf-8', 'replace')}")
        return await self.work.steps.run(state, replace(step, env=(*step.env, *extra)), watch)

    def _network(self, instruction: Run) -> str:
        asked = self.work.request.network_mode or "default"
        if instruction.network == "default":
            return asked
        if instruction.network == "host" and asked != "host":
            raise DockerfileError("network.host is not allowed: build with --network=host", instruction.line.lines)
        return instruction.network

    async def _mount_digest(self, mount: RunMount) -> str:
        """The content of a bind is part of the step's key; what a cache mount holds is not."""
        if mount.kind != "bind":
            return ""
        return await self.work.inputs.digest(await self._origin(mount.origin), mount.source or ".", ())

    async def _origin(self, name: str) -> Origin:
        """What ``--from`` or ``from=`` names: an earlier stage, else an image; nothing: the context."""
        if not name:
            return CONTEXT
        index = find_stage(name, self.work.graph.stages, self.stage.index)
        if index is not None:
            return Inputs.of_state(await self.other(index))
        if name == SCRATCH:
            return Origin(is_context=False)
        image = await self._image(name)
        return Origin(is_context=False, chain=str(image.chain_ids[-1]) if image.chain_ids else None)

    async def _copy(self, state: State, instruction: Copy) -> Ready:
        expander = Expander(values=state.values, escape=self.work.graph.escape, instruction=instruction)
        check_copy(instruction)
        written = expander.one(instruction.destination)
        destination, is_directory = joined(state.workdir, written)
        sources = [expander.one(source) for source in instruction.sources]
        excludes = tuple(expander.one(pattern) for pattern in instruction.excludes)
        copying = Copying(
            work=self.work,
            instruction=instruction,
            origin=await self._origin(instruction.source_stage),
            sources=sources,
            excludes=excludes,
            documents={
                document_name(document.name): body(document.body, state, expander) if document.expand else document.body
                for document in instruction.documents
            },
        )
        owner, mode = expander.one(instruction.chown), expander.one(instruction.chmod)
        parts = {
            "instruction": instruction.line.name,
            "destination": destination + ("/" if is_directory else ""),
            "files": await copying.digests(),
            "owner": owner,
            "mode": mode,
            "flags": [instruction.link, instruction.parents, instruction.unpack],
        }
        plan = Plan(
            destination=destination,
            items=(),
            owner=owner,
            keep_owner=bool(instruction.source_stage),
            mode=mode,
            directory=is_directory or instruction.parents,
            replace_links=instruction.link,
        )
        made = plain_change(state, copy_history(plan, instruction, sources, written), parts)
        return Ready(parts=parts, change=made, carry_out=lambda: copying.place(state, plan))

    async def _guarded(self, work: Awaitable[tuple[State, bool]], instruction: Instruction) -> tuple[State, bool]:
        """Faults get their place in the Dockerfile, and whoever watches is told."""
        try:
            return await work
        except EngineError as error:
            if isinstance(error, BuildFailed) and error.lines is None:
                error.lines = instruction.line.lines
            if error not in self.work.told:  # a stage that waits for another fails with it
                self.work.told.append(error)
                self._tell(Failed(step=self.step, error=error))
            raise

    def _first_place(self) -> int:
        return int(self.stage.base_stage is None and self.stage.base_image != SCRATCH)

    def _step(self, number: int, text: str, *, files: bool, place: int = 0) -> Step:
        graph, stage = self.work.graph, self.stage
        before = len(graph.global_lines)
        before += sum(1 + len(graph.stages[index].instructions) for index in graph.needed if index < stage.index)
        made = sum(isinstance(instruction, _MAKES_FILES) for instruction in stage.instructions)
        return Step(
            number=before + number + 1,
            total=graph.steps,
            stage=stage.shown_name if len(graph.stages) > 1 else "",
            place=place if files else 0,
            places=self._first_place() + made,
            text=" ".join(text.split("\n")).rstrip(),
        )

    def _finished(self, state: State, *, cached: bool, last: bool, empty: bool = False) -> None:
        """Raises BuildFailed for an image that nobody could pull."""
        config = state.encoded()
        if len(config) > CONFIG_LIMIT:
            raise BuildFailed(f"the image's config is larger than {CONFIG_LIMIT} bytes")
        seconds = time.monotonic() - self.began
        ident = str(sha256(config))
        self._tell(Finished(step=self.step, image_id=ident, seconds=seconds, cached=cached, last=last, empty=empty))

    def _write(self, data: bytes, stderr: bool) -> None:
        self._tell(Output(step=self.step, data=data, stderr=stderr))

    def _ran(self, ident: str, ended: bool) -> None:
        self._tell(Ran(step=self.step, container_id=ident, ended=ended))

    def _tell(self, event: Any) -> None:
        self.work.progress(event)


def _stands_on(state: State, entry: Entry) -> bool:
    """Whether a layer is one of this stack: when the step before ran anew, or in another build too, it may have made another layer."""
    return entry.kind == "same" or entry.chain == str(chain_id([*state.diff_ids, Digest(entry.diff_id)]))


def _after(state: State, ready: Ready, key: str, entry: Entry) -> State:
    """The state with the layer that an entry names."""
    made = advance(state, ready.change, next_key(state.trail, {"key": key}), entry.created, empty=entry.kind == "same")
    if entry.kind == "same":
        return replace(made, key=key)
    return replace(made, key=key, chain=entry.chain, diff_ids=(*state.diff_ids, Digest(entry.diff_id)))


def _run_words(state: State, instruction: Run) -> tuple[tuple[str, ...], tuple[str, str] | None]:
    """What a RUN executes, its heredocs put back in; and (name, text) of a script that stands for itself by its first line."""
    documents = instruction.line.heredocs
    if not documents:
        return state.with_args(instruction), None
    first = documents[0]
    if len(documents) == 1 and instruction.args[0].strip().lstrip("0123456789").lstrip("<-").strip("'\"") == first.name:
        if first.body.startswith("#!"):
            return (*state.shell, f"/dev/pipes/{first.name}"), (first.name, first.body)
        return (*state.shell, first.body), None
    whole = "\n".join([instruction.args[0], *(document.body + document.name for document in documents)])
    return (*state.shell, whole), None
