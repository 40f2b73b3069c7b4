"""Named daemons, in Docker's files: ``contexts/meta/<sha256 of the name>/meta.json`` and ``contexts/tls/<sha256>/docker/*.pem``."""

from __future__ import annotations

import os

from wherry.cli.flags import Failure
from wherry.client import jsontext

TYPE_CHECKING = False  # typing costs 8 ms to import

if TYPE_CHECKING:
    from typing import Any

DEFAULT = "default"
TLS_FILES = ("ca.pem", "cert.pem", "key.pem")


class ContextFault(Failure):
    """No such context, or one that cannot be made."""


class Context:
    """A named daemon: its address, and where the files of its TLS material are."""

    __slots__ = ("description", "host", "name", "skip_tls_verify", "tls_dir")

    def __init__(self, name: str, host: str, description: str = "", *, skip_tls_verify: bool = False, tls_dir: str = "") -> None:
        self.name = name
        self.host = host
        self.description = description
        self.skip_tls_verify = skip_tls_verify
        self.tls_dir = tls_dir

    def metadata(self) -> dict[str, Any]:
        """As ``meta.json`` holds it."""
        about = {"Description": self.description} if self.description else {}
        return {"Name": self.name, "Metadata": about, "Endpoints": {"docker": {"Host": self.host, "SkipTLSVerify": self.skip_tls_verify}}}

    def tls_files(self) -> list[str]:
        """The names of those of ca.pem, cert.pem, key.pem that are there."""
        folder = os.path.join(self.tls_dir, "docker")
        return [name for name in TLS_FILES if os.path.exists(os.path.join(folder, name))] if self.tls_dir else []


class Contexts:
    """The contexts kept below a configuration directory."""

    def __init__(self, config_dir: str) -> None:
        self._root = os.path.join(config_dir, "contexts")

    def meta_dir(self, name: str) -> str:
        return os.path.join(self._root, "meta", _key(name))

    def tls_dir(self, name: str) -> str:
        return os.path.join(self._root, "tls", _key(name))

    def get(self, name: str) -> Context:
        """The context called ``name`` (not ``default``, which has no file).  Raises ContextFault."""
        try:
            with open(os.path.join(self.meta_dir(name), "meta.json"), encoding="utf-8") as file:
                meta = jsontext.parse(file.read())
        except FileNotFoundError:
            raise ContextFault(
                f'context "{name}": context not found: open {self.meta_dir(name)}/meta.json: no such file or directory'
            ) from None
        except (OSError, ValueError) as error:
            raise ContextFault(f'context "{name}" cannot be read: {error}') from error
        endpoint = (meta.get("Endpoints") or {}).get("docker") or {}
        return Context(
            str(meta.get("Name", name)),
            str(endpoint.get("Host", "")),
            str((meta.get("Metadata") or {}).get("Description", "")),
            skip_tls_verify=bool(endpoint.get("SkipTLSVerify")),
            tls_dir=self.tls_dir(name),
        )

    def all(self) -> list[Context]:
        """Every kept context, by name."""
        found = []
        folder = os.path.join(self._root, "meta")
        for key in os.listdir(folder) if os.path.isdir(folder) else ():
            path = os.path.join(folder, key, "meta.json")
            try:
                with open(path, encoding="utf-8") as file:
                    name = str(jsontext.parse(file.read()).get("Name", ""))
            except (OSError, ValueError) as error:
                raise ContextFault(f"{path} cannot be read: {error}") from error
            found.append(self.get(name))
        return sorted(found, key=lambda context: context.name)

    def save(self, context: Context, tls: dict[str, bytes]) -> None:
        """Keep it with its TLS files (replacing what it had).  Raises OSError."""
        folder = self.meta_dir(context.name)
        os.makedirs(folder, mode=0o755, exist_ok=True)
        _remove_tree(self.tls_dir(context.name))
        if tls:
            keys = os.path.join(self.tls_dir(context.name), "docker")
            os.makedirs(keys, mode=0o700, exist_ok=True)
            for name, content in tls.items():
                _write(os.path.join(keys, name), content, 0o600)
        _write(os.path.join(folder, "meta.json"), jsontext.dump(context.metadata()).encode(), 0o644)

    def remove(self, name: str) -> None:
        _remove_tree(self.meta_dir(name))
        _remove_tree(self.tls_dir(name))

    def tls_content(self, context: Context) -> dict[str, bytes]:
        """The TLS files of a kept context, by name."""
        found = {}
        for name in context.tls_files():
            with open(os.path.join(context.tls_dir, "docker", name), "rb") as file:
                found[name] = file.read()
        return found


def check_name(name: str) -> None:
    """Raises ContextFault for a name that no context may have."""
    if not name:
        raise ContextFault("context name cannot be empty")
    if name == DEFAULT:
        raise ContextFault('"default" is a reserved context name')
    good = len(name) > 1 and name[0].isascii() and name[0].isalnum()
    if not good or not all(char.isascii() and (char.isalnum() or char in "_.+-") for char in name):
        raise ContextFault(f'context name "{name}" is invalid, names are validated against regexp "^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$"')


def _key(name: str) -> str:
    import hashlib

    return hashlib.sha256(name.encode()).hexdigest()


def _write(path: str, content: bytes, mode: int) -> None:
    temporary = f"{path}.{os.getpid()}"
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode), "wb") as file:
        file.write(content)
    os.rename(temporary, path)


def _remove_tree(path: str) -> None:
    if os.path.isdir(path):
        import shutil

        shutil.rmtree(path)
