"""``wherry bootstrap debian|node|python``: a base image made from the host's own package sources, where no registry can be reached."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile

from wherry.cli import apt_sources, base_image
from wherry.cli.flags import Command, Failure, Flag, Invocation
from wherry.client.http import quote
from wherry.kernel import mount, namespace
from wherry.spec.reference import parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

PIECE = 1 << 20
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
CACHE = "/var/cache/wherry/bootstrap"
MERGED_USR = "/usr/share/mmdebstrap/hooks/maybe-merged-usr"
DEBIAN_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
INSTALL = ["apt-get", "install", "-y", "--no-install-recommends", "mmdebstrap"]


# of mmdebstrap, of apt, and of this host
_LEFT_OUT = (
    "etc/apt/sources.list", "etc/apt/sources.list.d/0000*", "etc/apt/apt.conf.d/99mmdebstrap", "etc/dpkg/dpkg.cfg.d/99mmdebstrap",
    "var/cache/apt/*.bin", "etc/hostname", "etc/resolv.conf",
)  # fmt: skip
_TOLD = ("running apt-get", "downloading", "extracting", "installing", "creating", "done")


class Plan:
    """One image to make, and the files that its makers read; ``scratch`` is removed at the end."""

    __slots__ = ("keyring", "kind", "npm", "packages", "say", "scratch", "sources", "suite")

    def __init__(self, kind: str, suite: str, sources: list[apt_sources.Source], scratch: str, say: Callable[[str], None]) -> None:
        self.kind = kind
        self.suite = suite
        self.sources = sources
        self.scratch = scratch
        self.say = say
        self.keyring = sources[0].keyring or DEBIAN_KEYRING
        self.npm: str | None = None
        self.packages = list(base_image.RECIPES[kind].packages)

    def path(self, name: str) -> str:
        return os.path.join(self.scratch, name)

    def write(self, name: str, content: bytes) -> str:
        with open(self.path(name), "wb") as file:
            file.write(content)
        return self.path(name)


def run(invocation: Invocation) -> int:
    kind = invocation.arguments[0]
    if kind not in base_image.RECIPES:
        raise Failure(f"wherry: no recipe for {kind}: choose one of {', '.join(base_image.RECIPES)}")
    if os.geteuid() != 0:
        raise Failure("wherry: bootstrap needs root: it installs packages into a new root directory")
    say = _mute if invocation.flag("quiet") else _say
    release = apt_sources.os_release()
    if kind == "debian" and release.get("ID") != "debian":
        raise Failure(f"wherry: this host's package sources are those of {release.get('NAME', 'another system')}, not Debian's")
    host_suite = release.get("VERSION_CODENAME", "")
    suite = invocation.text("suite") or host_suite
    sources = apt_sources.for_suite(apt_sources.read(), host_suite, suite)
    if not sources:
        raise Failure(f"wherry: no package source for {suite or 'this system'} is configured in {apt_sources.DIRECTORY}")
    builder = _builder(install=invocation.flag("install"))
    with _ended_by_signals(), tempfile.TemporaryDirectory(prefix="wherry-bootstrap-") as scratch:
        plan = Plan(kind, suite, sources, scratch, say)
        plan.packages += [name for text in invocation.texts("include") for name in text.split(",") if name]
        if kind == "node":
            plan.npm = base_image.fetch_npm(scratch)
            plan.packages += [] if plan.npm else ["npm"]
        say(f"making {kind} from {', '.join(sorted({uri for source in sources for uri in source.uris}))} ({suite})")
        pieces = _with_mmdebstrap(plan) if builder == "mmdebstrap" else _with_debootstrap(plan)
        ident = _import(invocation, plan, pieces)
        names = invocation.texts("tag") or _names(kind, suite, _version(plan))
        for name in names:
            repository, _, tag = name.rpartition(":") if ":" in name.rpartition("/")[2] else (name, "", "latest")
            invocation.program.engine.post(f"/images/{quote(ident)}/tag", {"repo": repository, "tag": tag})
    print(f"{ident} {' '.join(names)}" if not invocation.flag("quiet") else ident)
    return 0


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP are failures, so that what was begun is undone."""

    def end(number: int, _frame: object) -> None:
        for one in (signal.SIGTERM, signal.SIGHUP):  # `timeout` sends it twice
            signal.signal(one, signal.SIG_IGN)
        raise Failure(f"wherry: ended by {signal.Signals(number).name}", 128 + number)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler == signal.SIG_DFL:
            signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """What the handlers of `_ENDING` would raise is raised behind the block.

    To block the signals would not do: any thread may take one, and the handler runs in the main thread all the same.
    """
    came: list[int] = []
    before = {number: handler for number in _ENDING if callable(handler := signal.getsignal(number))}
    for number in before:
        signal.signal(number, lambda number, _frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for one in came:
            signal.raise_signal(one)


def _tag(text: str) -> str:
    reference = parse(text)  # its InvalidReference is a ValueError
    if reference.digest is not None:
        raise ValueError("refusing to create a tag with a digest reference")
    return text


def _say(text: str) -> None:
    print(f"bootstrap: {text}", file=sys.stderr, flush=True)


def _mute(text: str) -> None:
    """--quiet."""


def _builder(*, install: bool) -> str:
    """The program that makes roots; installed when that was asked for.  Raises Failure with the command that would."""
    for program in ("mmdebstrap", "debootstrap"):
        if shutil.which(program):
            return program
    if not install:
        raise Failure(f"wherry: neither mmdebstrap nor debootstrap is installed. Install one:\n  {' '.join(INSTALL)}\nor give --install")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (INSTALL, ["apt-get", "update"], INSTALL):
        if subprocess.run(
            command, env=environment, stdout=sys.stderr, stdin=subprocess.DEVNULL, check=False
        ).returncode == 0 and shutil.which("mmdebstrap"):
            return "mmdebstrap"
    raise Failure(f"wherry: could not install mmdebstrap: {' '.join(INSTALL)} failed")


def _import(invocation: Invocation, plan: Plan, pieces: Iterator[bytes]) -> str:
    """Send the tar to the daemon; the image's id."""
    from wherry.cli.progress import Display

    first = next(pieces, b"")  # nothing is asked of the daemon before there is something to send

    def body() -> Iterator[bytes]:
        yield first
        yield from pieces

    engine = invocation.program.engine
    message = f"bootstrapped from the package sources of {plan.suite}"
    query = {"fromSrc": "-", "message": message, "changes": base_image.changes(plan.kind)}
    response = engine.stream("POST", "/images/create", query, raw=body())
    said: list[str] = []
    Display(said.append).show_all(response)
    engine.done(response)
    ident = said[-1].strip() if said else ""
    if not ident.startswith("sha256:"):
        raise Failure(f"the daemon did not name the image it made: {ident}")
    return ident


def _names(kind: str, suite: str, version: str) -> list[str]:
    names = [f"{kind}:latest"]
    if kind == "debian":
        return [*names, f"debian:{suite}"]
    parts = version.split(".")
    names += [f"{kind}:{'.'.join(parts[: depth + 1])}" for depth in range(min(2 if kind == "python" else 1, len(parts))) if parts[0]]
    return names


def _version(plan: Plan) -> str:
    """The upstream version of the package that gives the image its name: ``18.20.4``."""
    try:
        with open(plan.path("version"), encoding="utf-8") as file:
            return file.read().partition("+")[0].partition("-")[0].partition("~")[0].rpartition(":")[2].strip()
    except FileNotFoundError:
        return ""


# -- mmdebstrap: no root directory of ours, the tar comes from its standard output


def _with_mmdebstrap(plan: Plan) -> Iterator[bytes]:
    archives = os.path.join(CACHE, plan.suite)
    os.makedirs(archives, mode=0o755, exist_ok=True)
    early = plan.write("apt.tar", base_image.apt_overlay(plan.sources))
    late = plan.write("config.tar", base_image.config_overlay(plan.kind, plan.sources, plan.npm))
    sources = plan.write("debian.sources", "\n".join(source.text() for source in plan.sources).encode())
    inside = "var/cache/apt/archives"
    hooks = [
        f"--setup-hook=tar-in {early} /",
        f'--setup-hook=mkdir -p "$1/{inside}" && cp -al {archives}/. "$1/{inside}/" 2>/dev/null || cp -a {archives}/. "$1/{inside}/"',
        f'--customize-hook=for deb in "$1"/{inside}/*.deb; do test -e "$deb" && cp -n "$deb" {archives}/; done; true',
        f"--customize-hook=tar-in {late} /",
        '--customize-hook=chroot "$1" update-ca-certificates >/dev/null',
    ]
    named = base_image.RECIPES[plan.kind].versioned
    if named:
        hooks.append(f"--customize-hook=chroot \"$1\" dpkg-query -W -f '${{Version}}' {named} > {plan.path('version')}")
    hooks.append('--customize-hook=cd "$1" && rm -f ' + " ".join(_LEFT_OUT))
    if os.path.isdir(MERGED_USR):
        hooks.append(f"--hook-dir={MERGED_USR}")  # without it the conversion's own tools, all of Perl among them, stay in the image
    command = [
        "mmdebstrap", "--mode=root", "--variant=apt", "--format=tar", "--include=" + ",".join(plan.packages), *_dpkg_options(),
        "--aptopt=APT::Install-Recommends false", "--aptopt=Acquire::Languages none", "--skip=download/empty,essential/unlink,output/dev",
        *hooks, plan.suite, "-", sources,
    ]  # fmt: skip
    yield from _stream(plan, command)


def _dpkg_options() -> list[str]:
    """Documentation, manual pages and translations are not for a base image; licences stay."""
    left_out = ("/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*", "/usr/share/lintian/*", "/usr/share/doc/*")
    options = [f"--dpkgopt=path-exclude={pattern}" for pattern in left_out]
    return [*options, "--dpkgopt=path-include=/usr/share/doc/*/copyright", "--dpkgopt=force-unsafe-io"]


def _stream(plan: Plan, command: list[str]) -> Iterator[bytes]:
    """The program's standard output; what it says is shown, and told again when it fails.  Raises Failure before the last piece."""
    import threading

    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8", "TMPDIR": plan.scratch}
    heard: list[str] = []

    def listen(lines: Iterable[bytes]) -> None:
        for raw in lines:
            line = raw.decode("utf-8", "replace").rstrip()
            heard.append(line)
            if line.startswith("I: ") and line[3:].startswith(_TOLD):
                plan.say(line[3:])

    pipe = subprocess.PIPE
    listener = threading.Thread(target=lambda: listen(process.stderr or ()))
    with contextlib.ExitStack() as begun:
        with _signals_wait():  # until it is known what they end
            process = begun.enter_context(
                subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=environment, preexec_fn=_leave_mounts)
            )
            assert process.stdout is not None
            listener.start()
            begun.callback(listener.join)
            begun.callback(_terminate, process)
        while data := process.stdout.read(PIECE):
            yield data
        process.wait()
    if process.returncode:
        tail = "\n".join(line for line in heard[-15:] if line)
        raise Failure(f"wherry: {command[0]} failed with exit code {process.returncode}:\n{tail}")


def _terminate(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()


def _leave_mounts() -> None:
    """In the child: what it mounts goes with it, however it ends."""
    namespace.unshare(namespace.CLONE_NEWNS)
    mount.set_propagation("/", mount.MS_REC | mount.MS_SLAVE)


# -- debootstrap: a root directory in the scratch directory, packed by tar


def _with_debootstrap(plan: Plan) -> Iterator[bytes]:
    archives = os.path.join(CACHE, plan.suite)
    os.makedirs(archives, mode=0o755, exist_ok=True)
    root = plan.path("root")
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(plan.packages)}", f"--cache-dir={archives}"]
    command += [f"--keyring={plan.keyring}", "--force-check-gpg", plan.suite, root, plan.sources[0].uris[0]]
    plan.say("running debootstrap")
    for _ in _stream(plan, command):
        pass
    for content in (base_image.apt_overlay(plan.sources), base_image.config_overlay(plan.kind, plan.sources, plan.npm)):
        subprocess.run(["tar", "-x", "-C", root, "--keep-directory-symlink"], input=content, check=True)
    _tidy(root)
    subprocess.run(["chroot", root, "update-ca-certificates"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    named = base_image.RECIPES[plan.kind].versioned
    if named:
        done = subprocess.run(["chroot", root, "dpkg-query", "-W", "-f", "${Version}", named], capture_output=True, check=True)
        plan.write("version", done.stdout)
    yield from _stream(plan, ["tar", "-c", "-C", root, "--one-file-system", "--numeric-owner", "--exclude=./dev/*", "."])


def _tidy(root: str) -> None:
    """Leave out what mmdebstrap leaves out."""
    for path in ("var/cache/apt", "var/lib/apt/lists", "usr/share/man", "usr/share/locale", "usr/share/info", "var/log"):
        folder = os.path.join(root, path)
        if os.path.isdir(folder) and not os.path.islink(folder):
            shutil.rmtree(folder)
            os.makedirs(folder)
    for path in ("var/cache/apt/archives/partial", "var/lib/apt/lists/partial", "var/log/apt"):
        os.makedirs(os.path.join(root, path), exist_ok=True)
    old = os.path.join(root, "etc/apt/sources.list")
    if os.path.exists(old):
        os.unlink(old)


COMMAND = Command(
    "[OPTIONS] debian|node|python",
    "Make a base image from the host's own package sources",
    run,
    flags=(
        Flag("include", "list", "Install these packages too (names joined by commas)"),
        Flag("install", "bool", "Install mmdebstrap when no program that makes roots is there"),
        Flag("quiet", "bool", "Print the image's id only", short="q"),
        Flag("suite", "string", "Release to install (default: the host's own)"),
        Flag("tag", "list", "Name of the image, in place of the usual ones", short="t", parse=_tag),
    ),
    minimum=1,
    maximum=1,
)
