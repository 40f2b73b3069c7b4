"""One run of the program: its global flags, and the engine they lead to."""

from __future__ import annotations

import os
import sys

from wherry.cli.flags import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.cli.config import Config
    from wherry.client.engine import Engine
    from wherry.client.http import Tls

VERSION = "0.1.0"
DEFAULT_HOST = "unix:///run/wherry/wherry.sock"


class Program:
    """Global flags, the client's configuration directory, and the engine, connected when first asked for."""

    def __init__(self, values: dict[str, Any], given: set[str]) -> None:
        self.values = values
        self.given = given
        self._engine: Engine | None = None
        self._warned = False

    @property
    def config_dir(self) -> str:
        """Where config.json and contexts are; ``--config``, WHERRY_CONFIG, DOCKER_CONFIG, ~/.docker."""
        named: str = self.values["config"] or os.environ.get("WHERRY_CONFIG") or os.environ.get("DOCKER_CONFIG") or ""
        return named or os.path.join(os.path.expanduser("~"), ".docker")

    def config(self) -> dict[str, Any]:
        """config.json as it is; empty when there is none, or none that can be read."""
        path = os.path.join(self.config_dir, "config.json")
        try:
            with open(path, "rb") as file:
                text = file.read()
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            self.warn_once(f"WARNING: Error loading config file: open {path}: {(error.strerror or str(error)).lower()}")
            return {}
        from wherry.client import jsontext

        try:
            found = jsontext.parse(text) if text.strip() else {}
        except ValueError as error:
            self.warn_once(f"WARNING: Error parsing config file ({path}): {error}")
            return {}
        return found if isinstance(found, dict) else {}

    def stored_config(self) -> Config:
        """config.json with what can be done with it; of one that can't be read nothing is known, and that is told."""
        from wherry.cli.config import AUTH_VARIABLE, Config, ConfigError, load, of_environment

        try:
            config = load(self.config_dir)
        except ConfigError as error:
            self.warn_once(str(error))
            config = Config(self.config_dir, {}, damaged=True)
        try:
            config.given = of_environment(os.environ.get(AUTH_VARIABLE, ""))
        except ConfigError as error:
            self.warn_once(str(error))
        return config

    def warn_once(self, message: str) -> None:
        """Tell of the configuration, however often it is read."""
        if not self._warned:
            self._warned = True
            sys.stderr.write(message + "\n")

    @property
    def context_name(self) -> str:
        """The context in force; ``default`` when flags or the environment name a host."""
        if "context" in self.given:
            return str(self.values["context"])
        if "host" in self.given or os.environ.get("WHERRY_HOST") or os.environ.get("DOCKER_HOST"):
            return "default"
        return os.environ.get("DOCKER_CONTEXT") or self.config().get("currentContext") or "default"

    def endpoint(self) -> tuple[str, Tls | None, bool]:
        """The address, its TLS files, and whether it is the default one, whose daemon may be started."""
        if "host" in self.given:
            if "context" in self.given:
                raise Failure("conflicting options: cannot specify both --host and --context")
            return self._named(str(self.values["host"])) if self.values["host"] else (DEFAULT_HOST, None, True)
        context = self.context_name
        if context != "default":
            return (*context_endpoint(self.config_dir, context), False)
        if host := os.environ.get("WHERRY_HOST") or os.environ.get("DOCKER_HOST"):
            return self._named(host)
        return DEFAULT_HOST, None, True

    def _named(self, host: str) -> tuple[str, Tls | None, bool]:
        if "://" not in host:
            host = "tcp://" + host
        wanted = self.values["tls"] or self.values["tlsverify"] or os.environ.get("DOCKER_TLS_VERIFY") or os.environ.get("DOCKER_TLS")
        return host, self._tls() if wanted and not host.startswith("unix:") else None, False

    def _tls(self) -> Tls:
        from wherry.client.http import Tls

        where = os.environ.get("DOCKER_CERT_PATH") or self.config_dir
        files = [
            str(self.values["tls" + kind] or os.path.join(where, f"{kind.removeprefix('ca')}.pem")) for kind in ("cacert", "cert", "key")
        ]
        files[0] = str(self.values["tlscacert"] or os.path.join(where, "ca.pem"))
        ca, certificate, key = (name if os.path.exists(name) else None for name in files)
        verify = bool(self.values["tlsverify"] or os.environ.get("DOCKER_TLS_VERIFY"))
        return Tls(ca=ca, certificate=certificate, key=key, verify=verify)

    @property
    def address(self) -> str:
        return self.endpoint()[0]

    @property
    def engine(self) -> Engine:
        """The engine of this run.  The default one is started when it is not there."""
        if self._engine is None:
            from wherry.client.engine import Engine

            address, tls, own = self.endpoint()
            version = os.environ.get("DOCKER_API_VERSION")
            self._engine = Engine(
                address, tls=tls, version=version.removeprefix("v") if version else None, start=_start_daemon if own else None
            )
        return self._engine

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()

    def another_engine(self) -> Engine:
        """An engine with a connection pool of its own, for a second thread."""
        self._engine, kept = None, self.engine
        made, self._engine = self.engine, kept
        return made


def context_endpoint(config_dir: str, name: str) -> tuple[str, Tls | None]:
    """Host and TLS files of a stored context.  Raises Failure when there is none of that name."""
    from wherry.cli.contexts import Contexts
    from wherry.client.http import Tls

    context = Contexts(config_dir).get(name)
    files = {file: os.path.join(context.tls_dir, "docker", file) for file in context.tls_files()}
    host = context.host or DEFAULT_HOST
    if host.startswith("unix:") or not files:
        return host, None
    return host, Tls(
        ca=files.get("ca.pem"), certificate=files.get("cert.pem"), key=files.get("key.pem"), verify=not context.skip_tls_verify
    )


def _start_daemon() -> None:
    from wherry.cli.daemon_start import start

    start(DEFAULT_HOST)
