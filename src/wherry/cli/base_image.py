"""What a base image made on this host holds beside its packages: the host's package sources, proxies and trusted certificates.

Everything is gathered into tar archives that are laid over the new root. Nothing secret is copied: addresses with a password in them are
left out, and so are tokens.
"""

from __future__ import annotations

import io
import os
import subprocess
import tarfile

from wherry.cli import apt_sources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
LOCAL_CAS = "/usr/local/share/ca-certificates"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NPM = "npm@10"
ACQUIRE = ("Proxy", "Check-Valid-Until", "Check-Date", "Max-ValidTime", "ForceIPv4", "ForceIPv6", "Retries", "Timeout")
# What official images also set: no archives kept, no translations, no fsync per file.
FIXED_FILES = {
    "etc/apt/apt.conf.d/docker-no-languages": 'Acquire::Languages "none";\n',
    "etc/apt/apt.conf.d/docker-gzip-indexes": 'Acquire::GzipIndexes "true";\n',
    "etc/apt/apt.conf.d/docker-autoremove-suggests": 'Apt::AutoRemove::SuggestsImportant "false";\n',
    "etc/apt/apt.conf.d/docker-clean": (
        'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/archives/partial/*.deb /var/cache/apt/*.bin || true"; };\n'
        'Dir::Cache::pkgcache "";\nDir::Cache::srcpkgcache "";\n'
    ),
    "etc/dpkg/dpkg.cfg.d/docker-apt-speedup": "force-unsafe-io\n",
}


class Recipe:
    """One kind of base image: its packages, its command and environment, and which package tells its version."""

    __slots__ = ("changes", "command", "packages", "versioned")

    def __init__(self, packages: tuple[str, ...], command: str, versioned: str, changes: tuple[str, ...] = ()) -> None:
        self.packages = packages
        self.command = command
        self.versioned = versioned
        self.changes = changes


RECIPES = {
    "debian": Recipe(("ca-certificates",), "bash", ""),
    "node": Recipe(("ca-certificates", "nodejs"), "node", "nodejs"),
    "python": Recipe(("ca-certificates", "python3", "python3-pip"), "python3", "python3", ("ENV LANG=C.UTF-8",)),
}


class Overlay:
    """Files, links and directories to lay over a root, as one tar."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._buffer, mode="w", format=tarfile.PAX_FORMAT)

    def file(self, path: str, content: bytes, mode: int = 0o644) -> None:
        member = tarfile.TarInfo(path)
        member.size = len(content)
        member.mode = mode
        self._tar.addfile(member, io.BytesIO(content))

    def link(self, path: str, target: str) -> None:
        member = tarfile.TarInfo(path)
        member.type = tarfile.SYMTYPE
        member.linkname = target
        self._tar.addfile(member)

    def directories(self, path: str) -> None:
        """``path`` and what it lies in."""
        parts = path.split("/")
        for depth in range(1, len(parts) + 1):
            member = tarfile.TarInfo("/".join(parts[:depth]))
            member.type = tarfile.DIRTYPE
            member.mode = 0o755
            self._tar.addfile(member)

    def content(self) -> bytes:
        self._tar.close()
        return self._buffer.getvalue()


def apt_overlay(sources: Iterable[apt_sources.Source]) -> bytes:
    """What apt needs before the first package is fetched: options of the host, and keyrings."""
    overlay = Overlay()
    overlay.directories("etc/apt/apt.conf.d")
    overlay.directories("etc/dpkg/dpkg.cfg.d")
    options = host_apt_options()
    if options:
        overlay.file("etc/apt/apt.conf.d/90host", "".join(options).encode())
    for path in sorted({source.keyring for source in sources if source.keyring}):
        if os.path.isfile(path):
            overlay.directories(os.path.dirname(path).strip("/"))
            with open(path, "rb") as file:
                overlay.file(path.strip("/"), file.read())
    return overlay.content()


def host_apt_options() -> list[str]:
    """The host's options that decide how sources are reached (proxies, validity of old mirrors), without passwords."""
    found = []
    for line in _output(["apt-config", "dump"]).splitlines():
        name, _, value = line.partition(" ")
        parts = name.split("::")
        if parts[0] == "Acquire" and any(part in ACQUIRE for part in parts[1:]) and value not in ('"";', "") and "@" not in value:
            found.append(line + "\n")
    if not any("Proxy" in line for line in found):
        for scheme in ("http", "https"):
            proxy = os.environ.get(f"{scheme}_proxy") or os.environ.get(f"{scheme.upper()}_PROXY") or ""
            if proxy and "@" not in proxy:
                found.append(f'Acquire::{scheme}::Proxy "{proxy}";\n')
    return found


def config_overlay(kind: str, sources: list[apt_sources.Source], npm_archive: str | None) -> bytes:
    """What goes over the root once its packages are installed."""
    overlay = Overlay()
    for path, text in FIXED_FILES.items():
        overlay.file(path, text.encode())
    overlay.file("etc/apt/sources.list.d/debian.sources", "\n".join(source.text() for source in sources).encode())
    for name, content in local_cas().items():
        overlay.file(f"{LOCAL_CAS.strip('/')}/{name}", content)
    if kind == "node":
        npmrc = "".join(f"{key}={value}\n" for key, value in npm_settings().items()).encode()
        overlay.directories("usr/etc")
        overlay.file("usr/etc/npmrc", npmrc)
        overlay.file("etc/npmrc", npmrc)
        if npm_archive is not None:
            _add_npm(overlay, npm_archive)
    if kind == "python":
        overlay.file("etc/pip.conf", ("[global]\n" + "".join(f"{key} = {value}\n" for key, value in pip_settings().items())).encode())
        overlay.link("usr/local/bin/python", "/usr/bin/python3")
    return overlay.content()


def local_cas() -> dict[str, bytes]:
    """The certificates that the host's administrator added to those it trusts."""
    found: dict[str, bytes] = {}
    if os.path.isdir(LOCAL_CAS):
        for folder, _, names in os.walk(LOCAL_CAS):
            for name in sorted(names):
                if name.endswith(".crt"):
                    with open(os.path.join(folder, name), "rb") as file:
                        found[name] = file.read()
    return found


def npm_settings() -> dict[str, str]:
    """How the host's npm reaches its registry."""
    from wherry.client import jsontext

    settings = {"cafile": BUNDLE, "update-notifier": "false", "fund": "false"}
    text = _output(["npm", "config", "list", "--long", "--json"])
    known = jsontext.parse(text) if text.strip() else {}
    for key in (
        "registry",
        "replace-registry-host",
        "proxy",
        "https-proxy",
        "noproxy",
        "strict-ssl",
        "audit",
        "fetch-timeout",
        "fetch-retries",
    ):
        value = known.get(key)
        if isinstance(value, list):
            value = ",".join(str(item) for item in value)
        if value in (None, "", "null") or "@" in str(value).partition("://")[2].partition("/")[0]:
            continue
        settings[key] = "true" if value is True else "false" if value is False else str(value)
    return settings


def pip_settings() -> dict[str, str]:
    """How the host's pip reaches its index."""
    settings = {"cert": BUNDLE, "break-system-packages": "true", "disable-pip-version-check": "true", "root-user-action": "ignore"}
    for program in (["pip3"], ["pip"], ["python3", "-m", "pip"]):
        text = _output([*program, "config", "list"])
        if text:
            break
    for line in text.splitlines():
        name, _, value = line.partition("=")
        key = name.rpartition(".")[2].strip()
        words = [word for word in value.strip().strip("'\"").split() if _is_reachable(word)]
        if key in ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "default-timeout") and words:
            settings[key] = " ".join(words)
    return settings


def _is_reachable(word: str) -> bool:
    """Not a directory of the host, and no password inside."""
    return not word.startswith(("file:", "/")) and "@" not in word.partition("://")[2].partition("/")[0]


def fetch_npm(directory: str) -> str | None:
    """npm's own package, fetched and verified by the host's npm; None when the host has none or cannot."""
    found = _output(["npm", "pack", NPM, "--silent", "--pack-destination", directory], cwd=directory).strip().splitlines()
    path = os.path.join(directory, found[-1]) if found else ""
    return path if path.endswith(".tgz") and os.path.isfile(path) else None


def _add_npm(overlay: Overlay, archive: str) -> None:
    overlay.directories("usr/local/lib/node_modules/npm")
    with tarfile.open(archive) as tar:
        for member in tar:
            inside = member.name.removeprefix("package/")
            content = tar.extractfile(member) if member.isfile() else None
            if content is not None and inside and ".." not in inside.split("/"):
                overlay.file(f"usr/local/lib/node_modules/npm/{inside}", content.read(), 0o755 if member.mode & 0o100 else 0o644)
    for name in ("npm", "npx"):
        overlay.link(f"usr/local/bin/{name}", f"../lib/node_modules/npm/bin/{name}-cli.js")


def changes(kind: str) -> list[str]:
    """The Dockerfile lines of the image's configuration."""
    recipe = RECIPES[kind]
    lines = [f"ENV PATH={PATH}", *recipe.changes, f'CMD ["{recipe.command}"]']
    if kind == "node" and local_cas():
        lines.insert(1, f"ENV NODE_EXTRA_CA_CERTS={BUNDLE}")
    return lines


def _output(command: list[str], cwd: str | None = None) -> str:
    """What a program of the host prints; empty when it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL, cwd=cwd)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
