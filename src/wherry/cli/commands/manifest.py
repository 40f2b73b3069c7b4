"""``wherry manifest``: what registries have under a name, and lists of manifests for several platforms; all done by the client itself."""

from __future__ import annotations

import sys

from wherry.cli.flags import Command, Failure, Flag, Invocation
from wherry.cli.manifest_lists import Entry, ManifestLists, list_document
from wherry.cli.registry import LISTS, Registry
from wherry.cli.registry_auth import known_credentials, read_reference
from wherry.client import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.spec.reference import Reference

HUB_HOST = "registry-1.docker.io"
PLATFORMS = {
    "darwin": "386 amd64 arm arm64",
    "dragonfly": "amd64",
    "freebsd": "386 amd64 arm",
    "linux": "386 amd64 arm arm64 loong64 mips64 mips64le ppc64le riscv64 s390x",
    "netbsd": "386 amd64 arm",
    "openbsd": "386 amd64 arm",
    "plan9": "386 amd64",
    "solaris": "amd64",
    "wasip1": "wasm",
    "windows": "386 amd64 arm arm64",
}


def run_create(invocation: Invocation) -> int:
    name, *manifests = invocation.arguments
    try:
        target = read_reference(name).with_default_tag()
    except Failure as failure:
        raise Failure(f"error parsing name for manifest list {name}: {failure}") from None
    references = [_named(text) for text in manifests]
    lists = ManifestLists(invocation.program.config_dir)
    if not invocation.flag("amend") and lists.entries(target):
        raise Failure("refusing to amend an existing manifest list with no --amend flag")
    found = []
    for reference in references:
        entry = lists.entry(target, reference)
        found.append((reference, entry or _fetch(invocation, reference)))
    for reference, entry in found:
        lists.put(target, reference, entry)
    print(f"Created manifest list {target}")
    return 0


def run_annotate(invocation: Invocation) -> int:
    target, manifest = (_named(text) for text in invocation.arguments)
    lists = ManifestLists(invocation.program.config_dir)
    entry = lists.entry(target, manifest)
    if entry is None:
        raise Failure(f"manifest for image {invocation.arguments[1]} does not exist in {invocation.arguments[0]}")
    for flag, key in (("os", "os"), ("arch", "architecture"), ("variant", "variant"), ("os-version", "os.version")):
        if invocation.text(flag):
            entry.platform[key] = invocation.text(flag)
    features = [part for text in invocation.texts("os-features") for part in text.split(",") if part]
    if features:
        entry.platform["os.features"] = features
    if entry.platform.get("architecture") not in PLATFORMS.get(str(entry.platform.get("os")), "").split():
        asked = f"{invocation.text('os')}/{invocation.text('arch')}"
        raise Failure(f"manifest entry for image has unsupported os/arch combination: {asked}")
    lists.put(target, manifest, entry)
    return 0


def run_push(invocation: Invocation) -> int:
    target = _named(invocation.arguments[0])
    lists = ManifestLists(invocation.program.config_dir)
    entries = lists.entries(target)
    if not entries:
        raise Failure(f"No such manifest: {target}")
    registry = _registry(invocation, target)
    for entry in entries:
        if not entry.platform.get("os") or not entry.platform.get("architecture"):
            raise Failure(f"manifest {entry.ref} must have an OS and Architecture to be pushed to a registry")
        if _named(entry.ref).domain != target.domain:
            raise Failure(
                f"cannot use source images from a different registry than the target image: {_named(entry.ref).domain} != {target.domain}"
            )
    for entry in entries:
        _push_entry(registry, target, entry)
        print(f"Pushed ref {target.name}@{entry.digest} with digest: {entry.digest}")
    media_type, body = list_document(entries)
    registry.put_manifest(target.path, target.tag or "", media_type, body)
    from wherry.cli.registry import digest_of

    print(digest_of(body))
    if invocation.flag("purge"):
        lists.remove(target)
    return 0


def _push_entry(registry: Registry, target: Reference, entry: Entry) -> None:
    """The manifest, and what it is of, from the repository it comes from."""
    origin = _named(entry.ref).path
    document = jsontext.parse(entry.raw)
    if origin != target.path:
        for blob in [document.get("config"), *(document.get("layers") or ())]:
            registry.mount(target.path, str(blob["digest"]), origin)
    registry.put_manifest(target.path, entry.digest, entry.media_type, entry.raw)


def run_rm(invocation: Invocation) -> int:
    lists = ManifestLists(invocation.program.config_dir)
    problems = []
    for name in invocation.arguments:
        try:
            target = _named(name)
        except Failure as failure:
            problems.append(str(failure))
            continue
        if not lists.remove(target):
            problems.append(f"No such manifest: {target}")
    if problems:
        raise Failure("\n".join(problems))
    return 0


def run_inspect(invocation: Invocation) -> int:
    verbose = invocation.flag("verbose")
    lists = ManifestLists(invocation.program.config_dir)
    if len(invocation.arguments) == 2:
        target, reference = (_named(text) for text in invocation.arguments)
        entry = lists.entry(target, reference)
        if entry is None:
            raise Failure(f"No such manifest: {reference}")
        return _show(entry.document() if verbose else jsontext.parse(entry.raw))
    reference = _named(invocation.arguments[0])
    if entries := lists.entries(reference):
        return _show([entry.document() for entry in entries]) if verbose else _show(jsontext.parse(list_document(entries)[1]), "   ")
    media_type, raw = _manifest(invocation, reference)
    if not verbose:
        return _show(_parsed(reference, raw), "   " if media_type in LISTS else "\t")
    if media_type not in LISTS:
        return _show(_fetch(invocation, reference).document())
    return _show([entry.document() for entry in _members(invocation, reference, raw)])


def _members(invocation: Invocation, reference: Reference, raw: bytes) -> list[Entry]:
    """The manifests of a list in a registry, with the platforms that the list gives them."""
    found = []
    for descriptor in _parsed(reference, raw).get("manifests") or ():
        media_type, body = _manifest(invocation, reference.with_digest(str(descriptor["digest"])))
        found.append(Entry(f"{reference}@{descriptor['digest']}", media_type, body, dict(descriptor.get("platform") or {})))
    return found


def _fetch(invocation: Invocation, reference: Reference) -> Entry:
    """One image's manifest, with the platform that its configuration names.  Raises Failure."""
    media_type, raw = _manifest(invocation, reference)
    if media_type in LISTS:
        raise Failure(f"{reference} is a manifest list")
    document = _parsed(reference, raw)
    try:
        digest = str(document["config"]["digest"])
    except (KeyError, TypeError):
        raise Failure(f"{reference}: the registry's answer is not a manifest") from None
    config = _parsed(reference, _registry(invocation, reference).blob(reference.path, digest))
    platform = {key: config[key] for key in ("architecture", "os", "os.version", "os.features", "variant") if config.get(key)}
    return Entry(str(reference), media_type, raw, platform)


def _manifest(invocation: Invocation, reference: Reference) -> tuple[str, bytes]:
    answer = _registry(invocation, reference).manifest(reference.path, reference.digest or reference.tag or "")
    if answer.status == 404:
        raise Failure(f"no such manifest: {reference}")
    if answer.status != 200:
        raise Failure(f"{reference}: the registry answered {answer.status}: {answer.reason()}")
    return answer.media_type, answer.body


def _parsed(reference: Reference, raw: bytes) -> dict[str, Any]:
    try:
        found = jsontext.parse(raw)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Failure(f"{reference}: the registry's answer is not a manifest")
    return found


def _registry(invocation: Invocation, reference: Reference) -> Registry:
    host = HUB_HOST if reference.domain == "docker.io" else reference.domain
    credentials = known_credentials(invocation.program, reference.domain)
    insecure = "insecure" in invocation.values and invocation.flag("insecure")
    return Registry(host, credentials, insecure=insecure)


def _named(text: str) -> Reference:
    return read_reference(text).with_default_tag()


def _show(value: object, indent: str = "\t") -> int:
    sys.stdout.write(jsontext.pretty(value, indent) + "\n")
    return 0


INSECURE = Flag("insecure", "bool", "Allow communication with an insecure registry")
INSPECT = Command(
    "[OPTIONS] [MANIFEST_LIST] MANIFEST",
    "Display an image manifest, or manifest list",
    run_inspect,
    flags=(INSECURE, Flag("verbose", "bool", "Output additional info including layers and platform", short="v")),
    minimum=1,
    maximum=2,
)
CREATE = Command(
    "MANIFEST_LIST MANIFEST [MANIFEST...]",
    "Create a local manifest list for annotating and pushing to a registry",
    run_create,
    flags=(INSECURE, Flag("amend", "bool", "Amend an existing manifest list", short="a")),
    minimum=2,
)
ANNOTATE = Command(
    "[OPTIONS] MANIFEST_LIST MANIFEST",
    "Add additional information to a local image manifest",
    run_annotate,
    flags=(
        Flag("arch", "string", "Set architecture"),
        Flag("os", "string", "Set operating system"),
        Flag("os-features", "list", "Set operating system features"),
        Flag("os-version", "string", "Set operating system version"),
        Flag("variant", "string", "Set architecture variant"),
    ),
    minimum=2,
    maximum=2,
)
PUSH = Command(
    "[OPTIONS] MANIFEST_LIST",
    "Push a manifest list to a repository",
    run_push,
    flags=(INSECURE, Flag("purge", "bool", "Remove the local manifest list after push", short="p")),
    minimum=1,
    maximum=1,
)
RM = Command("MANIFEST_LIST [MANIFEST_LIST...]", "Delete one or more manifest lists from local storage", run_rm, minimum=1)
