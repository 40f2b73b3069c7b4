"""rmi and prune: which names go, which images, which layers, and what stands in the way.

Source: Engine API 1.51 ImageDelete and ImagePrune; the order of records and the conflicts are those of dockerd 28.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from wherry.errors import Conflict, InvalidRequest
from wherry.ids import short
from wherry.images.catalog import Catalog, Image
from wherry.images.layers import Layers, Needed
from wherry.spec import reference as names
from wherry.spec.digest import Digest
from wherry.spec.reference import InvalidReference, Reference

Removed = dict[str, str]  # {"Untagged": name} or {"Deleted": digest}
Publish = Callable[[str, str, dict[str, str]], None]  # action, image id, attributes


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerUse:
    """A container that stands on an image."""

    id: str
    running: bool


InUse = Callable[[str], Sequence[ContainerUse]]


@dataclass(frozen=True, slots=True)
class _Obstacle:
    message: str
    hard: bool
    used: bool = False

    def conflict(self, ident: str) -> Conflict:
        force = "(cannot be forced)" if self.hard else "(must be forced)"
        return Conflict(f"conflict: unable to delete {short(ident)} {force} - {self.message}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Remover:
    """Blocking: snapshots are deleted."""

    catalog: Catalog
    layers: Layers
    publish: Publish
    keeps: Callable[[], set[str]] = set

    def remove(self, image: Image, text: str, *, force: bool, prune: bool, in_use: InUse) -> list[Removed]:
        """Remove what ``text`` names: a tag, and with the last one the image and what only it held.  Raises Conflict."""
        removed: list[Removed] = []
        references = self.catalog.references(image.id)
        by_name = not _is_id_of(image.id, text)
        if by_name:
            users = in_use(image.id)
            if not force and _is_single(references) and users:
                raise Conflict(
                    f'conflict: unable to remove repository reference "{text}" (must force) - container {short(users[0].id)} '
                    f"is using its referenced image {short(image.id)}"
                )
            if self._untag_named(image.id, names.parse(text), removed):
                return removed
        elif _is_single(references):
            obstacle = self._obstacle(image.id, in_use, soft=not force, references=False)
            if obstacle is not None:
                raise obstacle.conflict(image.id)
            self._untag(image.id, references, removed)
        self._delete(image.id, removed, force=force, prune=prune, quiet=by_name, in_use=in_use)
        return removed

    def prune(self, images: Iterable[Image], in_use: InUse) -> tuple[list[Removed], int]:
        """Remove every one of ``images`` that no container stands on; what went, and how many bytes of layers."""
        removed: list[Removed] = []
        sizes: dict[str, int] = {}
        for image in images:
            sizes.update(zip(map(str, image.chain_ids), image.layer_sizes, strict=True))
            if not self.catalog.has(image.id) or in_use(image.id):
                continue
            texts = [item.familiar for item in self.catalog.references(image.id)] or [image.id]
            for text in texts:
                try:
                    current = self.catalog.find(text)
                    if current is not None and current.id == image.id:
                        removed += self.remove(current, text, force=False, prune=True, in_use=in_use)
                except (Conflict, InvalidReference):
                    continue
        return removed, sum(sizes.get(item.get("Deleted", ""), 0) for item in removed)

    def preview(self, images: Iterable[Image], in_use: InUse) -> list[Image]:
        """The images that `prune` would remove of ``images``, told without doing it."""
        chosen = [image for image in images if not in_use(image.id)]
        gone: dict[str, Image] = {}
        grown = True
        while grown:  # parents can go when their children have
            grown = False
            for image in chosen:
                if image.id not in gone and self.catalog.children(image.id) <= gone.keys():
                    gone |= {one.id: one for one in self._with_bare_parents(image, gone, in_use)}
                    grown = True
        return list(gone.values())

    def _with_bare_parents(self, image: Image, gone: dict[str, Image], in_use: InUse) -> list[Image]:
        """The image, and the parents without names and other children that go with it."""
        found = [image]
        while found[-1].parent and self.catalog.has(found[-1].parent):
            parent = self.catalog.get(found[-1].parent)
            others = self.catalog.children(parent.id) - gone.keys() - {one.id for one in found}
            if others or in_use(parent.id) or self.catalog.references(parent.id):
                break
            found.append(parent)
        return found

    def _untag_named(self, ident: str, reference: Reference, removed: list[Removed]) -> bool:
        """Take the name away, and the digests of its repository when it was the repository's last tag; whether names are left."""
        reference = reference if reference.digest else reference.with_default_tag()
        self._untag(ident, [reference], removed)
        left = self.catalog.references(ident)
        if reference.digest is None and not any(item.name == reference.name and item.digest is None for item in left):
            orphans = [item for item in left if item.name == reference.name]
            self._untag(ident, orphans, removed, quiet=True)
            left = [item for item in left if item not in orphans]
        return bool(left)

    def _untag(self, ident: str, references: Iterable[Reference], removed: list[Removed], *, quiet: bool = False) -> None:
        for item in references:
            attributes = self._attributes(ident)
            self.catalog.unname(item)
            if not quiet:
                self.publish("untag", ident, attributes)
            removed.append({"Untagged": item.familiar})

    def _delete(self, ident: str, removed: list[Removed], *, force: bool, prune: bool, quiet: bool, in_use: InUse) -> None:
        obstacle = self._obstacle(ident, in_use, soft=not force, references=True)
        if obstacle is not None:
            if quiet and (self.catalog.references(ident) or self.catalog.children(ident) or obstacle.used):
                return
            raise obstacle.conflict(ident)
        image = self.catalog.get(ident)
        attributes = self._attributes(ident)
        self._untag(ident, self.catalog.references(ident), removed)
        self.catalog.delete(ident)
        self.catalog.drop_config(ident)
        removed.append({"Deleted": str(ident)})
        removed += [{"Deleted": str(chain_id)} for chain_id in self._drop_layers(image)]
        self.publish("delete", ident, attributes)
        if prune and image.parent:
            self._delete(image.parent, removed, force=False, prune=True, quiet=True, in_use=in_use)

    def _drop_layers(self, image: Image) -> list[Digest]:
        return self.layers.discard(reversed(image.chain_ids), self._needed, image.diff_ids)

    def _needed(self) -> Needed:
        return Needed(chains={*self.catalog.layer_users(), *self.keeps()}, diff_ids=self.catalog.diff_id_users())

    def _obstacle(self, ident: str, in_use: InUse, *, soft: bool, references: bool) -> _Obstacle | None:
        if self.catalog.children(ident):
            return _Obstacle("image has dependent child images", hard=True)
        users = in_use(ident)
        running = next((user for user in users if user.running), None)
        if running is not None:
            return _Obstacle(f"image is being used by running container {short(running.id)}", hard=True, used=True)
        if soft and references and self.catalog.references(ident):
            return _Obstacle("image is referenced in multiple repositories", hard=False)
        if soft and users:
            return _Obstacle(f"image is being used by stopped container {short(users[0].id)}", hard=False, used=True)
        return None

    def _attributes(self, ident: str) -> dict[str, str]:
        image = self.catalog.get(ident)
        return {**image.labels, "name": ident}


def _is_id_of(ident: str, text: str) -> bool:
    return bool(text) and (ident.startswith(text) or ident.removeprefix("sha256:").startswith(text))


def _is_single(references: Sequence[Reference]) -> bool:
    """Whether all names are one tag at most, and digests of the same repository."""
    if len(references) <= 1:
        return True
    tags = [item for item in references if item.digest is None]
    repositories = {item.name for item in references if item.digest is not None}
    if len(tags) > 1:
        return False
    return repositories == {(tags or references)[0].name}


def parse_dangling(values: Sequence[str]) -> bool | None:
    """The value of the ``dangling`` filter, None when it is not given.  Raises InvalidRequest."""
    wanted: bool | None = None
    for value in values:
        if value not in ("1", "true", "0", "false") or (wanted is not None and wanted != (value in ("1", "true"))):
            raise InvalidRequest(f"invalid filter 'dangling=[{' '.join(values)}]'")
        wanted = value in ("1", "true")
    return wanted
