"""A build from request to image: stages in parallel where they don't depend on each other, steps from the cache where a key is known.

Read ``state`` (what an instruction means) and ``steps`` (how files are made) beside it. ``build`` is what the engine calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace

from wherry.build.cache import Cache
from wherry.build.checks import EMPTY_CONTINUATION, Remark, check, options, violation
from wherry.build.context import Source, read_ignore_file
from wherry.build.failures import BuildFailed, DockerfileError, excerpt
from wherry.build.graph import make_graph
from wherry.build.inputs import Inputs
from wherry.build.instructions import read
from wherry.build.parse import Document, parse
from wherry.build.progress import Built, Declared, Progress, Step, Warned
from wherry.build.services import BuildRequest, BuildResult, BuildServices
from wherry.build.stage import StageBuild
from wherry.build.state import PROXY_ARGS, State, label_change
from wherry.build.steps import Steps, whatever_happens
from wherry.build.work import Work
from wherry.errors import EngineError, InvalidRequest, NotSupported
from wherry.kernel.spread import spread
from wherry.spec import platform as platforms
from wherry.spec.patterns import BadPattern, Patterns
from wherry.spec.reference import InvalidReference
from wherry.spec.reference import parse as parse_reference

_DOCKERFILE_LIMIT = 4 << 20


async def build(request: BuildRequest, services: BuildServices, progress: Progress) -> BuildResult:
    """Build an image and tag it.

    Raises DockerfileError, InvalidRequest or NotSupported before the first call of ``progress`` when the request or the Dockerfile is at
    fault, BuildFailed when a step fails. Cancelling it kills what runs; whatever the end, nothing but finished layers stays behind.
    """
    tags = _checked(request)
    source = request.context
    document = _document(request, source)
    arguments = {**_platform_args(request.platform), "TARGETSTAGE": request.target or "default"}
    graph = make_graph(document, target=request.target, build_args=request.build_args, platform_args=arguments)
    source.ignored = _ignored(source, request)
    async with _directory(services) as directory:
        cache = Cache(services.records, services.snapshotter)
        steps = Steps(services, request, directory)
        inputs = Inputs(services, cache, source, directory)
        work = Work(
            request=request,
            services=services,
            graph=graph,
            cache=cache,
            steps=steps,
            inputs=inputs,
            arguments=arguments,
            progress=progress,
            name=tags[0] if tags else request.dockerfile,
        )
        try:
            return await _solve(work, document, tags)
        finally:
            for pulling in work.images.values():
                pulling.cancel()
            await asyncio.gather(*work.images.values(), return_exceptions=True)
            await steps.finish()
            inputs.close()


async def _solve(work: Work, document: Document, tags: tuple[str, ...]) -> BuildResult:
    warnings, violated = _checked_document(document)
    for warning in warnings:
        work.progress(warning)
    if violated:
        raise DockerfileError(violated)
    for number, text in enumerate(work.graph.global_lines, 1):
        work.progress(Declared(step=Step(number=number, total=work.graph.steps, stage="", place=0, places=0, text=text)))
    try:
        state = await _Stages(work).result()
    except EngineError as error:
        raise _with_excerpt(error, work.request, document) from error
    work.cache.flush()
    state = _labelled(state, work.request)
    image = await whatever_happens(work.services.blocking(lambda: work.services.register(state.encoded(), tags=tags)))
    familiar = tuple(parse_reference(tag).familiar for tag in tags)
    work.progress(Built(image_id=image.id, tags=familiar, quiet=work.request.quiet, unused_args=_unused_args(work)))
    return BuildResult(
        image_id=image.id,
        tags=familiar,
        warnings=tuple(warning.message for warning in warnings),
        steps=work.counted,
        steps_cached=work.reused,
    )


def _unused_args(work: Work) -> tuple[str, ...]:
    """Given build arguments that nothing in the file asks for, but those that mean something without being declared."""
    left = work.request.build_args.keys() - work.graph.declared - PROXY_ARGS
    return tuple(sorted(name for name in left if not name.startswith("BUILDKIT_") and name != "SOURCE_DATE_EPOCH"))


class _Stages:
    """Each needed stage is built once, in a task of its own, when something first asks for it."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._tasks: dict[int, asyncio.Task[State]] = {}
        self._group: asyncio.TaskGroup | None = None

    async def result(self) -> State:
        graph = self._work.graph
        try:
            async with asyncio.TaskGroup() as self._group:
                for index in graph.needed:
                    self._task(index)
        except BaseExceptionGroup as group:
            raise _first(group) from None
        return self._tasks[graph.target].result()

    async def get(self, index: int) -> State:
        """A stage's final state; a failure there cancels the one that waits."""
        return await asyncio.shield(self._task(index))

    def _task(self, index: int) -> asyncio.Task[State]:
        task = self._tasks.get(index)
        if task is None:
            assert self._group is not None
            task = self._tasks[index] = self._group.create_task(StageBuild(self._work, index, self.get).build())
        return task


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _checked(request: BuildRequest) -> tuple[str, ...]:
    """The tags, normalised.  Raises InvalidRequest, NotSupported."""
    if request.squash:
        raise NotSupported("squash is not supported: use a multi-stage build and COPY --from")
    tags: list[str] = []
    for tag in request.tags:
        try:
            reference = parse_reference(tag)
        except InvalidReference as error:
            raise InvalidRequest(str(error)) from None
        if reference.digest is not None:
            raise InvalidRequest("invalid reference format: a tag must not contain a digest")
        tags.append(str(reference if reference.tag else replace(reference, tag="latest")))
    return tuple(tags)


def _document(request: BuildRequest, source: Source) -> Document:
    if request.dockerfile_bytes is not None:
        return parse(request.dockerfile_bytes)
    try:
        data = source.read(request.dockerfile, _DOCKERFILE_LIMIT)
        if not data:
            raise InvalidRequest(f"the Dockerfile ({request.dockerfile}) cannot be empty")
    except (FileNotFoundError, NotADirectoryError):
        raise InvalidRequest(f"Cannot locate specified Dockerfile: {request.dockerfile}") from None
    except OSError as error:
        raise InvalidRequest(f"cannot read the Dockerfile {request.dockerfile}: {error.strerror}") from None
    return parse(data)


def _ignored(source: Source, request: BuildRequest) -> Patterns:
    try:
        return read_ignore_file(source, request.dockerfile)
    except BadPattern as error:
        raise InvalidRequest(f"error reading .dockerignore: {error}") from None


def _platform_args(asked: str) -> dict[str, str]:
    """The arguments that need only an ARG line: TARGETPLATFORM and its kin.  Raises InvalidRequest."""
    architecture, variant = platforms.machine()
    own = ("linux", architecture, "" if architecture == "arm64" else variant)
    try:
        target = platforms.parse(asked) if asked else own
    except platforms.InvalidPlatform as error:
        raise InvalidRequest(str(error)) from None
    named: dict[str, str] = {}
    for prefix, (system, machine, kind) in (("TARGET", target), ("BUILD", own)):
        named[f"{prefix}PLATFORM"] = "/".join(filter(None, (system, machine, kind)))
        named[f"{prefix}OS"], named[f"{prefix}ARCH"], named[f"{prefix}VARIANT"] = system, machine, kind
    return named


@contextlib.asynccontextmanager
async def _directory(services: BuildServices) -> AsyncIterator[str]:
    """The build's own directory, emptied at its end (and by the next start of a daemon that died)."""
    staging = os.path.join(services.settings.data_root, "staging")
    os.makedirs(staging, mode=0o700, exist_ok=True)
    spread(staging)
    path = tempfile.mkdtemp(prefix="build-", dir=staging)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _checked_document(document: Document) -> tuple[tuple[Warned, ...], str]:
    """What there is to remark, and what the build fails with, where its ``# check=error=true`` wants that.  Raises DockerfileError."""
    remarks = check(document, [read(line, document.escape) for line in document.lines])
    warnings = tuple(Warned(message=str(remark), line=_with_hole(document, remark)) for remark in remarks)
    return warnings, violation(remarks) if remarks and options(document).error else ""


def _with_hole(document: Document, remark: Remark) -> str:
    """The instruction that has empty lines in it, where the remark is of them."""
    if remark.rule != EMPTY_CONTINUATION:
        return ""
    return next((line.text for line in document.lines if line.first <= remark.lines[0] <= line.last), "")


def _with_excerpt(error: EngineError, request: BuildRequest, document: Document) -> EngineError:
    """BuildKit's block of lines around the fault, added where the place is known."""
    lines = error.lines if isinstance(error, DockerfileError | BuildFailed) else None
    if isinstance(error, BuildFailed) and lines is not None:
        error.excerpt = excerpt(os.path.basename(request.dockerfile), document.source, lines)
    return error


def _labelled(state: State, request: BuildRequest) -> State:
    """Labels of the request are part of the config and of no step."""
    if not request.labels:
        return state
    return replace(state, config=label_change(state, sorted(request.labels.items())).config)
