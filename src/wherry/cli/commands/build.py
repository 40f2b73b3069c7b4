"""``wherry build``: the context goes to the daemon while it is read, its answer is shown as it comes."""

from __future__ import annotations

import os
import sys

from wherry.cli.flags import Command, Failure, Flag, Invocation, parse_swap
from wherry.cli.output import size
from wherry.cli.progress import Display, StreamError, show_stream
from wherry.cli.registry_auth import all_auth_headers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from wherry.client.http import Response

PIECE = 1 << 18
ARCHIVES = (b"\x1f\x8b\x08", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")
REMOTE = ("http://", "https://", "git://", "git@", "ssh://", "github.com/")
PROGRESS = ("auto", "plain", "quiet")


def run(invocation: Invocation) -> int:
    quiet = invocation.flag("quiet") or invocation.text("progress") == "quiet"
    plain = invocation.text("progress") == "plain" and not quiet
    iidfile = invocation.text("iidfile")
    if iidfile and os.path.exists(iidfile):
        os.unlink(iidfile)
    where = invocation.arguments[0]
    remote = where if where.startswith(REMOTE) else None
    dockerfile, context = (invocation.text("file") or "Dockerfile", ()) if remote else _prepare(where, invocation.text("file"))
    query = {**_query(invocation), "dockerfile": dockerfile, "q": quiet, "remote": remote, "progress": "plain" if plain else None}
    engine = invocation.program.engine
    if invocation.flag("compress"):
        context = _compressed(context)
    body = context if quiet or plain or remote else _counted(context)
    response = engine.stream("POST", "/build", query, raw=body, headers=all_auth_headers(invocation.program))
    ident = _quietly(response) if quiet else _aloud(invocation, response)
    if quiet:
        engine.done(response)
        print(ident)
    if iidfile:
        if not ident:
            raise Failure("server did not provide an image ID. Cannot write " + iidfile)
        try:
            with open(iidfile, "w", encoding="utf-8", opener=_no_link) as file:
                file.write(ident)
        except OSError as error:
            raise Failure(f"open {iidfile}: {(error.strerror or '').lower()}") from None
    return 0


def _no_link(path: str, flags: int) -> int:
    """What was there is gone: a link has been put there since, by somebody else."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


def _aloud(invocation: Invocation, response: Response) -> str:
    found: list[str] = []
    show_stream(invocation.program.engine, response, aux=lambda aux: found.append(str(aux.get("ID", ""))))
    return next((ident for ident in reversed(found) if ident), "")


def _quietly(response: Response) -> str:
    """The id the stream ends with; what it said is shown only when it fails."""
    said: list[str] = []
    found: list[str] = []
    display = Display(said.append, 0, lambda aux: found.append(str(aux.get("ID", ""))))
    try:
        display.show_all(response)
    except StreamError:
        sys.stderr.write("".join(said))
        raise
    return next((ident for ident in reversed(found) if ident), "".join(said).strip())


def _compressed(context: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    import zlib

    packer = zlib.compressobj(wbits=31)  # gzip's framing
    for piece in context:
        if packed := packer.compress(piece):
            yield packed
    yield packer.flush()


def _counted(context: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """The pieces of the context, with their sum told: on a terminal as it grows, elsewhere at the end."""
    import time

    terminal = sys.stdout.isatty()
    sent = 0
    shown = time.monotonic()
    for piece in context:
        sent += len(piece)
        yield piece
        if terminal and time.monotonic() - shown > 0.1:
            shown = time.monotonic()
            sys.stdout.write(f"\x1b[2K\rSending build context to Docker daemon  {size(sent)}\r")
            sys.stdout.flush()
    sys.stdout.write(f"{chr(27) + '[2K' + chr(13) if terminal else ''}Sending build context to Docker daemon  {size(sent)}\r\r\n")
    sys.stdout.flush()


# -- what is asked


def _query(invocation: Invocation) -> dict[str, Any]:
    arguments = dict(_build_argument(word) for word in invocation.texts("build-arg"))
    for name, value in invocation.program.stored_config().proxies(invocation.program.endpoint()[0]).items():
        arguments.setdefault(name, value)
    query: dict[str, Any] = {
        "version": "1",
        "t": invocation.texts("tag"),
        "target": invocation.text("target") or None,
        "buildargs": arguments,
        "labels": dict(_label(word) for word in invocation.texts("label")),
        "nocache": invocation.flag("no-cache"),
        "pull": invocation.flag("pull"),
        "rm": "1" if invocation.flag("rm") else "0",
        "forcerm": invocation.flag("force-rm"),
        "networkmode": invocation.text("network"),
        "platform": invocation.text("platform") or None,
        "extrahosts": invocation.texts("add-host"),
        "memory": invocation.number("memory") or None,
        "memswap": invocation.number("memory-swap") or None,
        "cpushares": invocation.number("cpu-shares") or None,
        "cpuperiod": invocation.number("cpu-period") or None,
        "cpuquota": invocation.number("cpu-quota") or None,
        "cpusetcpus": invocation.text("cpuset-cpus") or None,
        "cpusetmems": invocation.text("cpuset-mems") or None,
        "shmsize": invocation.number("shm-size") or None,
    }
    if invocation.texts("ulimit"):
        from wherry.client import jsontext

        query["ulimits"] = jsontext.dump(list(invocation.value("ulimit")))
    return query


def _build_argument(word: str) -> tuple[str, str | None]:
    """A name alone takes the client's environment."""
    name, equals, value = word.partition("=")
    return name, value if equals else os.environ.get(name)


def _label(word: str) -> tuple[str, str]:
    name, _, value = word.partition("=")
    return name, value


def _named_label(word: str) -> str:
    from wherry.cli.environment import label

    return label(word)


def _extra_host(word: str) -> str:
    name, separator, address = word.partition("=" if "=" in word else ":")
    if not separator or not name or not address:
        raise ValueError(f'bad format for add-host: "{word}"')
    return f"{name}:{address}"


def _tag(text: str) -> str:
    if not _is_simple(text):
        from wherry.spec.reference import parse  # and what it imports, which takes as long as sending a small context

        parse(text)  # its InvalidReference is a ValueError
    return text


def _is_simple(text: str) -> bool:
    """Whether a name needs no further look: a few lower-case words, ``bench/app:1``."""
    name, colon, tag = text.partition(":")
    words = [*name.split("/"), tag] if colon else name.split("/")
    return len(text) < 64 and text.isascii() and name == name.lower() and all(word.isalnum() for word in words)


def _progress(text: str) -> str:
    if text not in PROGRESS:
        raise ValueError(f"not supported: choose one of {', '.join(PROGRESS)}")
    return text


def _ulimit(text: str) -> dict[str, Any]:
    from wherry.cli.resources import ulimit

    return ulimit(text)


# -- the context


def _prepare(where: str, dockerfile: str) -> tuple[str, Iterable[bytes | memoryview]]:
    """The Dockerfile's name in the context, and the context's pieces.  Raises Failure."""
    if where == "-":
        if dockerfile == "-":
            raise Failure("invalid argument: can't use stdin for both build context and dockerfile")
        return _from_stdin(dockerfile)
    if not os.path.exists(where):
        raise Failure(f'unable to prepare context: path "{where}" not found')
    root = os.path.realpath(where)
    if not os.path.isdir(root):
        raise Failure(f"unable to prepare context: context must be a directory: {root}")
    return _from_directory(root, dockerfile)


def _from_stdin(dockerfile: str) -> tuple[str, Iterable[bytes | memoryview]]:
    start = b""
    while len(start) < 512 and (more := os.read(0, PIECE)):
        start += more
    if start.startswith(ARCHIVES) or start[257:262] == b"ustar":
        return dockerfile or "Dockerfile", _rest_of_stdin(start)
    if dockerfile:
        raise Failure("ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles")
    from wherry.cli.context_tar import one_file

    return "Dockerfile", [one_file("Dockerfile", b"".join(_rest_of_stdin(start)))]


def _rest_of_stdin(start: bytes) -> Iterator[bytes]:
    if start:
        yield start
    while data := os.read(0, PIECE):
        yield data


def _from_directory(root: str, dockerfile: str) -> tuple[str, Iterable[bytes | memoryview]]:
    from wherry.cli.context_tar import ContextTar

    name, content = _find_dockerfile(root, dockerfile)
    patterns, text = _ignore_patterns(root, name)
    extra: dict[str, bytes] = {}
    if content is not None:
        # a Dockerfile from elsewhere travels under a name of its own, which .dockerignore hides from COPY
        name = ".dockerfile." + os.urandom(10).hex()
        extra = {name: content, ".dockerignore": f"{text or '.dockerignore'}\n{name}\n".encode()}
    if not patterns:
        return name, ContextTar(root, None, extra)
    from wherry.spec.patterns import BadPattern, Patterns

    try:
        ignore = Patterns(patterns)
        kept = [f"!{path}" for path in (".dockerignore", name) if ignore.matches(path)]
        return name, ContextTar(root, Patterns([*patterns, *kept]) if kept else ignore, extra)
    except BadPattern as fault:
        raise Failure(f"checking context: {fault}") from None


def _find_dockerfile(root: str, dockerfile: str) -> tuple[str, bytes | None]:
    """Its path in the context; and its content when it lies elsewhere (stdin included)."""
    if dockerfile == "-":
        return "-", b"".join(_rest_of_stdin(b""))
    path = os.path.join(root, "Dockerfile")
    if dockerfile:
        path = os.path.abspath(dockerfile)
    elif not os.path.lexists(path) and os.path.lexists(os.path.join(root, "dockerfile")):
        path = os.path.join(root, "dockerfile")
    real = os.path.realpath(path)
    if not os.path.lexists(real):
        raise Failure(f"unable to prepare context: unable to evaluate symlinks in Dockerfile path: lstat {path}: no such file or directory")
    if real.startswith(root.rstrip("/") + "/"):
        inside = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        return os.path.relpath(inside if inside.startswith(root.rstrip("/") + "/") else real, root), None
    try:
        with open(real, "rb") as file:
            return os.path.basename(real), file.read()
    except OSError as error:
        raise Failure(f"unable to prepare context: open {path}: {(error.strerror or '').lower()}") from None


def _ignore_patterns(root: str, dockerfile: str) -> tuple[list[str], str]:
    """The patterns that hold, and the text of the context's own ``.dockerignore``; one named after the Dockerfile wins."""
    texts = []
    for name in (f"{dockerfile}.dockerignore", ".dockerignore"):
        try:
            with open(os.path.join(root, name), encoding="utf-8", errors="surrogateescape") as file:
                texts.append(file.read())
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            texts.append("")
    chosen = texts[0] or texts[1]
    if not chosen:
        return [], ""
    from wherry.spec.patterns import patterns_of

    return patterns_of(chosen), texts[1]


def _only_false(text: str) -> bool:
    if text.lower() in ("false", "0"):
        return False
    raise ValueError("attestations are not supported")


_LATER = "this builder does not do it yet"
COMMAND = Command(
    "[OPTIONS] PATH | URL | -",
    "Build an image from a Dockerfile",
    run,
    flags=(
        Flag("add-host", "list", 'Add a custom host-to-IP mapping ("host:ip")', parse=_extra_host),
        Flag("build-arg", "list", "Set build-time variables"),
        Flag("compress", "bool", "Compress the build context using gzip"),
        Flag("cpu-period", "int", "Limit the CPU CFS (Completely Fair Scheduler) period"),
        Flag("cpu-quota", "int", "Limit the CPU CFS (Completely Fair Scheduler) quota"),
        Flag("cpu-shares", "int", "CPU shares (relative weight)", short="c"),
        Flag("cpuset-cpus", "string", "CPUs in which to allow execution (0-3, 0,1)"),
        Flag("cpuset-mems", "string", "MEMs in which to allow execution (0-3, 0,1)"),
        Flag("file", "string", 'Name of the Dockerfile (Default is "PATH/Dockerfile")', short="f"),
        Flag("force-rm", "bool", "Always remove intermediate containers"),
        Flag("iidfile", "string", "Write the image ID to the file"),
        Flag("label", "list", "Set metadata for an image", parse=_named_label),
        Flag("load", "bool", "Keep the result among the images, as every build does", hidden=True),
        Flag("memory", "bytes", "Memory limit", short="m"),
        Flag("memory-swap", "bytes", "Swap limit equal to memory plus swap: -1 to enable unlimited swap", parse=parse_swap),
        Flag("network", "string", "Set the networking mode for the RUN instructions during build", default="default"),
        Flag("no-cache", "bool", "Do not use cache when building the image"),
        Flag("platform", "string", "Set platform if server is multi-platform capable"),
        Flag(
            "progress",
            "string",
            "Kind of output: auto, plain (BuildKit's, with why the cache was not used), quiet",
            default="auto",
            parse=_progress,
        ),
        Flag("pull", "bool", "Always attempt to pull a newer version of the image"),
        Flag("quiet", "bool", "Suppress the build output and print image ID on success", short="q"),
        Flag("rm", "bool", "Remove intermediate containers after a successful build", default=True),
        Flag("shm-size", "bytes", 'Size of "/dev/shm"'),
        Flag("tag", "list", 'Name and optionally a tag in the "name:tag" format', short="t", parse=_tag),
        Flag("target", "string", "Set the target build stage to build."),
        Flag("ulimit", "list", "Ulimit options", parse=_ulimit),
        Flag("provenance", "string", "Attach provenance", hidden=True, parse=_only_false, default=False),
        Flag("sbom", "string", "Attach an SBOM", hidden=True, parse=_only_false, default=False),
        *(
            Flag(name, kind, what, short=short, refused=_LATER, hidden=True)
            for name, kind, what, short in (
                ("allow", "list", "Grant an entitlement", ""),
                ("annotation", "list", "Add an annotation to the image", ""),
                ("attest", "list", "Attach an attestation", ""),
                ("build-context", "list", "Additional build contexts", ""),
                ("builder", "string", "Choose a builder instance", ""),
                ("cache-from", "list", "External cache sources", ""),
                ("cache-to", "list", "Cache export destinations", ""),
                ("call", "string", "Method for evaluating the build", ""),
                ("cgroup-parent", "string", "Parent control group of RUN steps", ""),
                ("check", "bool", "Check the Dockerfile only", ""),
                ("isolation", "string", "Container isolation technology", ""),
                ("metadata-file", "string", "Write the result's metadata to a file", ""),
                ("no-cache-filter", "list", "Do not cache the given stages", ""),
                ("output", "list", "Output destination", "o"),
                ("push", "bool", "Push the result", ""),
                ("secret", "list", "Secret to expose to the build", ""),
                ("security-opt", "list", "Security options", ""),
                ("squash", "bool", "Squash new layers", ""),
                ("ssh", "list", "SSH agent socket or keys to expose", ""),
            )
        ),
    ),
    minimum=1,
    maximum=1,
)
