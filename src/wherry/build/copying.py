"""COPY and ADD: what their sources are and hold, and how they get to where they are placed."""

from __future__ import annotations

import contextlib
import os
import posixpath
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from wherry.build.archive import open_archive
from wherry.build.context import NothingThere
from wherry.build.failures import BuildFailed, DockerfileError
from wherry.build.fetch import Downloaded, FetchError, download, is_git, is_url
from wherry.build.inputs import Origin
from wherry.build.instructions import Copy
from wherry.build.state import (
    Expander,
    State,
)
from wherry.build.steps import Layer, staging_file
from wherry.build.variables import ExpansionError, expand_text
from wherry.build.work import Work, not_found
from wherry.errors import NotSupported
from wherry.spec.digest import sha256
from wherry.spec.patterns import BadPattern
from wherry.tree.plan import Item, Plan
from wherry.tree.tar import InvalidArchive


@dataclass(slots=True, kw_only=True)
class Copying:
    """One COPY or ADD: its sources found and hashed, and, when there is no other way, placed."""

    work: Work
    instruction: Copy
    origin: Origin
    sources: Sequence[str]
    excludes: tuple[str, ...]
    documents: Mapping[str, str]
    downloads: dict[str, Downloaded] = field(default_factory=dict)

    async def digests(self) -> dict[str, str]:
        """Source as written -> digest of what it names now."""
        found = {f"<<{name}": str(sha256(body.encode())) for name, body in self.documents.items()}
        for source in self.sources:
            if self.instruction.add and (is_url(source) or is_git(source)):
                found[source] = await self._downloaded(source)
            else:
                found[source] = await self._guard(source, self.work.inputs.digest(self.origin, source, self.excludes))
        return found

    async def place(self, state: State, plan: Plan) -> Layer:
        """Carry it out."""
        with contextlib.ExitStack() as stack:
            fds: list[int] = []
            items = [*await self._document_items(fds, stack)]
            for source in self.sources:
                if source in self.downloads:
                    items += await self._downloaded_items(source, fds, stack, plan)
                else:
                    items += await self._chosen_items(source, fds, stack)
            try:
                return await self.work.steps.place(state, replace(plan, items=tuple(items)), fds)
            except BuildFailed as error:
                raise BuildFailed(f"{self.instruction.line.name} failed: {error}", detail=str(error)) from error

    async def _downloaded(self, url: str) -> str:
        if is_git(url):
            raise NotSupported(f"ADD of a git repository is not supported: {self.instruction.line.rest}")
        directory = os.path.join(self.work.steps.directory, f"download-{os.urandom(6).hex()}")
        os.mkdir(directory, 0o700)
        try:
            got = await download(url, directory, self.work.services.settings.proxies, self.work.services.reason)
        except FetchError as error:
            raise BuildFailed(f"ADD failed: {error}", detail=str(error)) from error
        if self.instruction.checksum and got.digest != self.instruction.checksum:
            raise BuildFailed(f"digest mismatch {got.digest}: {self.instruction.checksum}")
        self.downloads[url] = got
        return f"{got.name} {got.digest}"

    async def _guard(self, source: str, work: Awaitable[Any]) -> Any:
        try:
            return await work
        except NothingThere as error:
            raise not_found(self.instruction.line.name, error.path, self.origin) from None
        except BadPattern as error:
            raise DockerfileError(f"{self.instruction.line.name} failed: {error}", self.instruction.line.lines) from None
        except OSError as error:
            raise BuildFailed(f"{self.instruction.line.name} failed: {source}: {error.strerror or error}") from error

    async def _document_items(self, fds: list[int], stack: contextlib.ExitStack) -> list[Item]:
        if not self.documents:
            return []
        directory = os.path.join(self.work.steps.directory, f"documents-{os.urandom(6).hex()}")
        os.mkdir(directory, 0o755)
        index = _keep(fds, stack, os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        for name, body in self.documents.items():
            staging_file(directory, name, body.encode(), 0o644)
        return [Item(kind="file", descriptor=index, path=name, name=name) for name in self.documents]

    async def _downloaded_items(self, url: str, fds: list[int], stack: contextlib.ExitStack, plan: Plan) -> list[Item]:
        got = self.downloads[url]
        if not got.name and plan.directory:
            raise BuildFailed(f"cannot determine filename for source {url}")
        folder, last = os.path.split(got.path)
        if self.instruction.unpack:
            archive = await self._archive(os.open(got.path, os.O_RDONLY | os.O_CLOEXEC))
            if archive is not None:
                return [Item(kind="tar", descriptor=_keep(fds, stack, archive))]
        index = _keep(fds, stack, os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        return [Item(kind="file", descriptor=index, path=last, name=got.name or last)]

    async def _archive(self, fd: int) -> int | None:
        """The plain tar in a file, whose descriptor is closed; None when there is none in it."""
        try:
            services = self.work.services
            return await services.blocking(open_archive, fd, self.work.steps.directory, services.start)
        except InvalidArchive as error:
            raise BuildFailed(f"ADD failed: the archive is damaged: {error}", detail=f"the archive is damaged: {error}") from error
        finally:
            os.close(fd)

    async def _chosen_items(self, pattern: str, fds: list[int], stack: contextlib.ExitStack) -> list[Item]:
        inputs = self.work.inputs
        source = await inputs.source(self.origin)
        index = len(fds)
        for fd in source.descriptors():
            _keep(fds, stack, os.dup(fd))
        items: list[Item] = []
        for chosen in await self._guard(pattern, inputs.choose(self.origin, pattern, self.excludes)):
            if self.instruction.add and self.instruction.unpack is not False and not chosen.is_directory and source.archive_kind(chosen):
                archive = await self._archive(source.open_file(chosen.path, self.work.steps.directory))
                if archive is not None:
                    items.append(Item(kind="tar", descriptor=_keep(fds, stack, archive)))
                    continue
            name = "" if chosen.is_directory else chosen.name
            if self.instruction.parents:
                name = self._parented(pattern, chosen.name, chosen.path)
            items.append(source.item(chosen, index, name))
        return items

    def _parented(self, pattern: str, name: str, path: str) -> str:
        """With --parents a source keeps its path, from ``/./`` on where the pattern has one."""
        base, pivot, _ = pattern.partition("/./")
        cut = posixpath.normpath("/" + base).strip("/") if pivot else ""
        return path[len(cut) :].strip("/") if cut and path.startswith(cut + "/") else path or name


def _keep(fds: list[int], stack: contextlib.ExitStack, fd: int) -> int:
    stack.callback(os.close, fd)
    fds.append(fd)
    return len(fds) - 1


def document_name(name: str) -> str:
    """The file that a document of COPY becomes, in a directory of its own.  Raises BuildFailed in BuildKit's words for any other place."""
    clean = posixpath.normpath(f"/{name}").strip("/")
    if not clean:
        raise BuildFailed("open : is a directory")
    if "/" in clean or "\0" in clean:
        raise BuildFailed(f"open /{clean}: no such file or directory")
    return clean


def body(text: str, state: State, expander: Expander) -> str:
    try:
        return expand_text(text, expander.values, escape=expander.escape)
    except ExpansionError as error:
        raise DockerfileError(str(error), expander.instruction.line.lines) from None


def check_copy(instruction: Copy) -> None:
    remote = any(is_url(source) or is_git(source) for source in instruction.sources)
    if instruction.checksum and not (instruction.add and remote):
        raise DockerfileError("checksum requires HTTP(S) or Git sources", instruction.line.lines)
    if instruction.keep_git_dir:
        raise NotSupported("ADD --keep-git-dir is not supported: git repositories can't be added")


def copy_history(plan: Plan, instruction: Copy, sources: Sequence[str], destination: str) -> str:
    flags = {"parents": instruction.parents, f"chown={plan.owner}": plan.owner, f"chmod={plan.mode}": plan.mode}
    words = [instruction.line.name, *(f"--{flag}" for flag, given in flags.items() if given), *sources]
    return " ".join([*words, *(f"<<{document.name}" for document in instruction.documents), destination, "# buildkit"])
