"""The user's configuration, in Docker's files: ``config.json`` with credentials and preferences.

A file that is rewritten keeps the keys that are not known here, is never seen half-written, and is readable by its owner only.
"""

from __future__ import annotations

import os

from wherry.cli.flags import Failure
from wherry.client import jsontext

TYPE_CHECKING = False  # typing costs 8 ms to import

if TYPE_CHECKING:
    from typing import Any

HUB = "https://index.docker.io/v1/"
TOKEN_USER = "<token>"
AUTH_VARIABLE = "DOCKER_AUTH_CONFIG"
_HELPER_S = 30  # a person may have to unlock something
_HELPER_BYTES = 1 << 20


class ConfigError(Failure):
    """The configuration cannot be read or written, or a credential helper failed."""


class Credentials:
    """What a registry is told: a user and password, or an identity token."""

    __slots__ = ("identity_token", "password", "server", "username")

    def __init__(self, server: str, username: str = "", password: str = "", identity_token: str = "") -> None:
        self.server = server
        self.username = username
        self.password = password
        self.identity_token = identity_token

    def body(self) -> dict[str, str]:
        """As ``POST /auth`` and the X-Registry-Auth header take it."""
        if self.identity_token:
            return {"username": self.username, "identitytoken": self.identity_token, "serveraddress": self.server}
        return {"username": self.username, "password": self.password, "serveraddress": self.server}

    def header(self) -> str:
        """The value of X-Registry-Auth."""
        return encode_header(self.body())


def encode_header(body: dict[str, Any]) -> str:
    """JSON in URL-safe base64, as registry headers carry it."""
    import binascii

    return binascii.b2a_base64(jsontext.dump(body).encode(), newline=False).decode().replace("+", "-").replace("/", "_")


class Config:
    """``config.json`` in ``directory``; made by ``load``.  ``damaged``: what is in the file could not be read, and is not written over.

    ``given``: credentials by server that go before all that is kept.
    """

    def __init__(self, directory: str, values: dict[str, Any], *, damaged: bool = False) -> None:
        self.directory = directory
        self.values = values
        self.given: dict[str, Credentials] = {}
        self._damaged = damaged

    @property
    def path(self) -> str:
        return os.path.join(self.directory, "config.json")

    def text(self, name: str) -> str:
        """A preference that is a text (``detachKeys``, ``psFormat``, ``currentContext``); empty when not set."""
        value = self.values.get(name)
        return value if isinstance(value, str) else ""

    def save(self) -> None:
        """Write the file: temporary, fsync, rename; mode 600.  Raises ConfigError."""
        path = os.path.realpath(self.path)
        if self._damaged:
            raise ConfigError(f"cannot write {path}: what is in it now can't be read")
        temporary = f"{path}.{os.getpid()}"
        try:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(jsontext.pretty(self.values, "\t"))
                file.flush()
                os.fsync(descriptor)
            os.rename(temporary, path)
        except OSError as error:
            if os.path.exists(temporary):
                os.unlink(temporary)
            raise ConfigError(f"cannot write {path}: {error.strerror}") from error

    # -- credentials

    def helper(self, server: str) -> str:
        """The credential program that keeps ``server``'s secret, or empty for the file itself."""
        helpers = self.values.get("credHelpers")
        found = helpers.get(server) if isinstance(helpers, dict) else None
        return str(found or self.values.get("credsStore") or "")

    def credentials(self, server: str) -> Credentials | None:
        """What is known for ``server``.  Raises ConfigError when a helper fails."""
        if server in self.given:
            return self.given[server]
        helper = self.helper(server)
        if helper:
            found = _run_helper(helper, "get", server)
            if found is None:
                return None
            answer = jsontext.parse(found)
            user, secret = str(answer.get("Username", "")), str(answer.get("Secret", ""))
            return Credentials(server, "", "", secret) if user == TOKEN_USER else Credentials(server, user, secret)
        auths = self.values.get("auths")
        if not isinstance(auths, dict):
            return None
        for key, entry in auths.items():
            if isinstance(entry, dict) and (key == server or hostname(key) == server):
                return _decode_entry(server, entry)
        return None

    def store(self, credentials: Credentials) -> bool:
        """Keep them, in the helper or the file; whether that was new to it.  Raises ConfigError."""
        helper = self.helper(credentials.server)
        entry: dict[str, str] = {}
        if helper:
            user = TOKEN_USER if credentials.identity_token else credentials.username
            secret = credentials.identity_token or credentials.password
            _run_helper(helper, "store", jsontext.dump({"ServerURL": credentials.server, "Username": user, "Secret": secret}))
        else:
            import binascii

            pair = f"{credentials.username}:{'' if credentials.identity_token else credentials.password}".encode()
            entry["auth"] = binascii.b2a_base64(pair, newline=False).decode()
            if credentials.identity_token:
                entry["identitytoken"] = credentials.identity_token
        auths = self.values.setdefault("auths", {})
        if auths.get(credentials.server) == entry:
            return False
        auths[credentials.server] = entry
        self.save()
        return True

    def erase(self, server: str) -> None:
        """Forget them; nothing known is success.  Raises ConfigError."""
        helper = self.helper(server)
        if helper:
            _run_helper(helper, "erase", server)
        auths = self.values.get("auths")
        if isinstance(auths, dict) and server in auths:
            del auths[server]
            self.save()

    def all_credentials(self) -> dict[str, dict[str, str]]:
        """Every registry's, as the build's X-Registry-Config header takes them."""
        auths = self.values.get("auths")
        helpers = self.values.get("credHelpers")
        servers = [*self.given, *(auths if isinstance(auths, dict) else ()), *(helpers if isinstance(helpers, dict) else ())]
        if self.text("credsStore"):
            listed = jsontext.parse(_run_helper(self.text("credsStore"), "list", "") or "{}")
            servers += [server for server in listed if isinstance(server, str)] if isinstance(listed, dict) else []
        found: dict[str, dict[str, str]] = {}
        for server in dict.fromkeys(servers):
            known = self.credentials(server)
            if known is not None:
                found[server] = known.body()
        return found

    def proxies(self, address: str) -> dict[str, str]:
        """The proxy variables that containers and builds are given, from ``proxies``."""
        table = self.values.get("proxies")
        if not isinstance(table, dict):
            return {}
        chosen = table.get(address) or table.get("default") or {}
        names = {
            "httpProxy": "HTTP_PROXY",
            "httpsProxy": "HTTPS_PROXY",
            "noProxy": "NO_PROXY",
            "ftpProxy": "FTP_PROXY",
            "allProxy": "ALL_PROXY",
        }
        found: dict[str, str] = {}
        for key, name in names.items():
            if chosen.get(key):
                found[name] = found[name.lower()] = str(chosen[key])
        return found


def default_directory() -> str:
    """``$DOCKER_CONFIG``, or ``~/.docker``."""
    return os.environ.get("DOCKER_CONFIG") or os.path.join(os.path.expanduser("~"), ".docker")


def load(directory: str | None = None) -> Config:
    """Read it; a missing file is an empty configuration.  Raises ConfigError."""
    directory = directory or default_directory()
    path = os.path.join(directory, "config.json")
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return Config(directory, {})
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"WARNING: Error loading config file: {path}: {error}") from error
    try:
        values = jsontext.parse(text) if text.strip() else {}
    except ValueError as error:
        raise ConfigError(f"WARNING: Error parsing config file ({path}): {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"WARNING: Error parsing config file ({path}): not a JSON object")
    return Config(directory, values)


def of_environment(text: str) -> dict[str, Credentials]:
    """What ``DOCKER_AUTH_CONFIG`` gives, as CI systems set it: ``{"auths": {SERVER: {"auth": ...}}}``, no more.  Raises ConfigError."""
    if not text:
        return {}
    try:
        values = jsontext.parse(text)
        auths = _only(values, "auths") or {}
        entries = {server: _only(entry, "auth") for server, entry in auths.items()}
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"Failed to create credential store from {AUTH_VARIABLE}:  {error}") from None
    for server, auth in entries.items():
        if not auth:
            missing = f"{AUTH_VARIABLE} environment variable is missing key `auth` for {server}"
            raise ConfigError(f"Failed to create credential store from {AUTH_VARIABLE}:  {missing}")
    return {server: _decode_entry(server, {"auth": auth}) for server, auth in entries.items()}


def _only(value: Any, name: str) -> Any:
    """What is called ``name`` in an object that has nothing else.  Raises ValueError."""
    if not isinstance(value, dict):
        raise ValueError("json: not an object")
    for other in value:
        if other != name:
            raise ValueError(f'json: unknown field "{other}"')
    return value.get(name)


def server_of(domain: str) -> str:
    """The key under which a registry's credentials are kept."""
    return HUB if domain in ("docker.io", "index.docker.io", "registry-1.docker.io") else domain


def hostname(url: str) -> str:
    """``https://host/v1/`` as ``host``: an old way to write a key."""
    if url == HUB:
        return url
    return url.removeprefix("http://").removeprefix("https://").partition("/")[0]


def _decode_entry(server: str, entry: dict[str, Any]) -> Credentials:
    import binascii

    user, password = str(entry.get("username", "")), str(entry.get("password", ""))
    if entry.get("auth"):
        try:
            pair = binascii.a2b_base64(str(entry["auth"])).decode()
        except ValueError as error:
            raise ConfigError(f"the credentials of {server} are not base64 text") from error
        user, colon, password = pair.partition(":")
        if not colon:
            raise ConfigError("invalid auth configuration file")
        password = password.rstrip("\x00")
    return Credentials(server, user, password, str(entry.get("identitytoken", "")))


def _run_helper(name: str, action: str, text: str) -> str | None:
    """Ask ``docker-credential-NAME``; None when it knows nothing.  Raises ConfigError.

    It is found on PATH, has so much time and so many words, and writes what it wants a person to read to our standard error.
    """
    import subprocess
    import threading

    verb = "getting" if action in ("get", "list") else "storing" if action == "store" else "erasing"
    if not name.replace("-", "").replace("_", "").replace(".", "").isalnum() or not name.isascii():
        raise ConfigError(f"error {verb} credentials - err: {name!r} is not the name of a credential helper")
    try:
        process = subprocess.Popen([f"docker-credential-{name}", action], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    except FileNotFoundError as error:
        program = f'exec: "docker-credential-{name}": executable file not found in $PATH'
        raise ConfigError(f"error {verb} credentials - err: {program}, out: ``") from error
    except OSError as error:
        raise ConfigError(f"error {verb} credentials - err: {error}") from error
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None
    assert stdout is not None
    timer = threading.Timer(_HELPER_S, process.kill)
    timer.start()
    try:
        try:
            stdin.write(text.encode())
            stdin.close()
        except BrokenPipeError:
            pass
        answer = stdout.read(_HELPER_BYTES + 1)
        if len(answer) > _HELPER_BYTES:
            raise ConfigError(f"error {verb} credentials - err: docker-credential-{name} says more than {_HELPER_BYTES} bytes")
        code = process.wait()
    finally:
        timer.cancel()
        process.kill()
        process.wait()
        stdout.close()
    if code == 0:
        return answer.decode(errors="replace")
    message = answer.decode(errors="replace").strip()
    if action in ("get", "erase") and message == "credentials not found in native keychain":
        return None
    status = f"exit status {code}" if code > 0 else f"it was killed after {_HELPER_S} seconds" if code == -9 else f"signal {-code}"
    raise ConfigError(f"error {verb} credentials - err: {status}, out: `{message}`")
