"""The daemon: flags and environment become Settings; starts zygote, engine and API; the only module that knows every floor.

    python -m wherry.daemon [--data-root DIR] [--run-root DIR] [--host unix://PATH]... [--debug]

`kill -9` and a new start is a supported operation: containers run on.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import logging
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import Any

from wherry.errors import EngineError
from wherry.runtime.supervisor import Supervisor
from wherry.spec import configuration
from wherry.spec.mirrors import parse_insecure, parse_mirror, parse_token_server
from wherry.spec.proxies import Proxies, of_environment
from wherry.spec.settings import INITS, RUNTIME, SECCOMP_BUILTIN, SECCOMP_UNCONFINED, SECURITY_PROFILES, SELF_TESTS, Settings

log = logging.getLogger("wherry")
SWITCH_S = 0.001  # how long a thread that computes (a context, a layer) may keep the event loop, and with it every client, waiting
DRAIN_S = 0.2
OOM_SCORE = -500
KNOWN_RUNTIMES = ("runc", "crun")
LONGEST_RUN_ROOT = 107 - len("/monitors/") - 24


def parse(arguments: Sequence[str]) -> Settings:
    """Settings from a command line and the configuration file.  Exits with status 2 for a bad one, 1 for a bad file."""
    standard = Settings()
    parser = _parser(standard)
    given = parser.parse_args([*_configured(arguments), *arguments])
    try:
        pools = tuple(_pool(text) for text in given.default_address_pool)
        for text in given.registry_mirror:
            parse_mirror(text)
        for text in given.registry_token_server:
            parse_token_server(text)
        insecure = tuple(parse_insecure(text) for text in given.insecure_registry)
        for text, host in zip(given.insecure_registry, insecure, strict=True):
            if text != host:
                log.warning("insecure registry %s is taken as %s", text, host)
        options = {**standard.default_log_options, **dict(_pair(text) for text in given.log_opt)}
        found = of_environment(os.environ)
        proxies = Proxies(
            http=given.http_proxy or found.http, https=given.https_proxy or found.https, no=given.no_proxy or found.no
        ).checked()
        runtimes = _runtimes(given.add_runtime)
        if given.default_runtime not in (RUNTIME, *runtimes):
            raise ValueError(f"specified default runtime '{given.default_runtime}' does not exist")
        seccomp = _seccomp(given.seccomp_profile)
    except ValueError as error:
        parser.error(str(error))
    run_root = os.path.abspath(given.run_root)
    if len(os.fsencode(run_root)) > LONGEST_RUN_ROOT:
        parser.error(f"--run-root may have at most {LONGEST_RUN_ROOT} bytes: sockets lie in it")
    return Settings(
        data_root=os.path.abspath(given.data_root),
        run_root=run_root,
        hosts=tuple(given.host or [f"unix://{run_root}/wherry.sock"]),
        snapshotter=given.snapshotter,
        address_pools=pools or standard.address_pools,
        insecure_registries=insecure,
        registry_mirrors=tuple(given.registry_mirror),
        token_servers=tuple(given.registry_token_server),
        certificate_dirs=tuple(given.registry_cert_dir) or standard.certificate_dirs,
        proxies=proxies,
        registry_connect_s=given.registry_connect_timeout,
        registry_idle_s=given.registry_idle_timeout,
        download_attempts=given.max_download_attempts,
        concurrent_downloads=given.max_concurrent_downloads,
        concurrent_uploads=given.max_concurrent_uploads,
        default_log_options=options,
        runtimes=runtimes,
        default_runtime=given.default_runtime,
        init_path=given.init_path,
        security_profile=given.security_profile,
        no_new_privileges=given.no_new_privileges,
        seccomp_profile=given.seccomp_profile,
        seccomp=seccomp,
        self_test=given.self_test,
        docker_user=not given.no_docker_user,
        default_ip=given.ip,
        ephemeral=given.ephemeral,
        debug=given.debug,
    )


def _seccomp(name: str) -> dict[str, Any] | None:
    """A profile from its file, None for a name that stands for itself.  Raises ValueError in Docker's words."""
    if name in (SECCOMP_BUILTIN, SECCOMP_UNCONFINED):
        return None
    try:
        with open(name, "rb") as file:
            profile = json.loads(file.read())
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise ValueError(f"opening seccomp profile ({name}) failed: open {name}: {reason}") from None
    except ValueError as error:
        raise ValueError(f"decoding seccomp profile failed: {error}") from None
    if not isinstance(profile, dict):
        raise ValueError("decoding seccomp profile failed: it is not a JSON object")
    return profile


def _parser(standard: Settings) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wherry daemon",
        description="The Wherry daemon: serves the Docker Engine API.",
        epilog="`wherry daemon stop` ends the daemon that runs; its containers run on.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config-file",
        default="",
        metavar="FILE",
        help=f"settings as JSON, as in Docker's daemon.json (default {configuration.DEFAULT_PATH})",
    )
    parser.add_argument(
        "-H", "--host", action="append", metavar="URL", help="where to listen: unix://PATH, or tcp://IP:PORT on the loopback"
    )
    parser.add_argument("--data-root", default=standard.data_root, metavar="DIR", help="images, containers, volumes (default %(default)s)")
    parser.add_argument("--run-root", default=standard.run_root, metavar="DIR", help="sockets; empty after a reboot (default %(default)s)")
    parser.add_argument("--snapshotter", default="", metavar="NAME", help="erofs, overlay or vfs (default: the first that works)")
    _add_registry_options(parser, standard)
    parser.add_argument(
        "--log-opt", action="append", default=[], metavar="NAME=VALUE", help="default log options (default max-size=20m, max-file=5)"
    )
    parser.add_argument(
        "--default-address-pool", action="append", default=[], metavar="base=CIDR,size=N", help="where networks take subnets"
    )
    parser.add_argument("--no-docker-user", action="store_true", help="name no bridge in Docker's firewall chain DOCKER-USER")
    parser.add_argument("--ip", default="", metavar="ADDRESS", help="host address of published ports (default: all)")
    parser.add_argument(
        "--ephemeral", action="store_true", help="at the end remove every container, bridge and firewall table (demos, tests)"
    )
    parser.add_argument(
        "--add-runtime", action="append", default=[], metavar="NAME=PROGRAM", help="another OCI runtime (runc and crun where installed)"
    )
    parser.add_argument(
        "--default-runtime", default=standard.default_runtime, metavar="NAME", help="of containers that ask for none (default %(default)s)"
    )
    parser.add_argument(
        "--init-path",
        default=standard.init_path,
        metavar="PROGRAM",
        help=f"static program of `run --init` with another runtime (default: {', '.join(INITS)}, the first in PATH)",
    )
    parser.add_argument(
        "--security-profile",
        choices=SECURITY_PROFILES,
        default=standard.security_profile,
        help="what containers get that ask for no profile",
    )
    parser.add_argument(
        "--seccomp-profile",
        default=standard.seccomp_profile,
        metavar="FILE",
        help=f"the profile of containers that name none, {SECCOMP_BUILTIN}, or {SECCOMP_UNCONFINED} (default %(default)s)",
    )
    parser.add_argument("--no-new-privileges", action="store_true", help="set no-new-privileges by default for new containers")
    parser.add_argument(
        "--self-test",
        choices=SELF_TESTS,
        default=standard.self_test,
        help="when containers are weaker than configured (default %(default)s)",
    )
    parser.add_argument("--debug", action="store_true", help="log more")
    return parser


def _configured(arguments: Sequence[str]) -> list[str]:
    """What the configuration file says, as a command line; the standard file may be missing.  Exits with status 1 for a bad one."""
    search = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    search.add_argument("--config-file", default="")
    named = search.parse_known_args(arguments)[0].config_file
    path = named or configuration.DEFAULT_PATH
    flags = {"--host" if word == "-H" else word.partition("=")[0] for word in arguments if word.startswith("-")}
    try:
        with open(path, "rb") as file:
            return configuration.arguments(file.read(), flags)
    except FileNotFoundError:
        if not named:
            return []
        reason = f"open {path}: no such file or directory"
    except (OSError, ValueError) as error:
        reason = str(error)
    sys.stderr.write(f"unable to configure the Wherry daemon with file {path}: {reason}\n")
    raise SystemExit(1)


def _add_registry_options(parser: argparse.ArgumentParser, standard: Settings) -> None:
    several: dict[str, Any] = {"action": "append", "default": []}
    where = " and ".join(standard.certificate_dirs)
    texts = (
        ("--insecure-registry", "HOST[:PORT]|CIDR", "a registry that may be reached without TLS, or without knowing it"),
        ("--registry-mirror", "[REGISTRY=]URL", "a mirror of Docker Hub, or of REGISTRY"),
        ("--registry-token-server", "REGISTRY=HOST", "a host that is told the credentials for REGISTRY, which gets its tokens there"),
        ("--registry-cert-dir", "DIR", f"where HOST[:PORT]/*.{{crt,cert,key}} lie (default {where})"),
    )
    for name, metavar, text in texts:
        parser.add_argument(name, metavar=metavar, help=text, **several)
    for name, metavar, text in (
        ("--http-proxy", "URL", "for registries and downloads without TLS (default $HTTP_PROXY)"),
        ("--https-proxy", "URL", "for those with TLS (default $HTTPS_PROXY)"),
        ("--no-proxy", "HOST,...", "hosts, domains and networks that are reached directly (default $NO_PROXY)"),
    ):
        parser.add_argument(name, metavar=metavar, help=text, default="")
    numbers: tuple[tuple[str, str, str, float], ...] = (
        ("--registry-connect-timeout", "SECONDS", "until a registry must have taken a connection", standard.registry_connect_s),
        ("--registry-idle-timeout", "SECONDS", "until a registry must have said something", standard.registry_idle_s),
        ("--max-download-attempts", "N", "how often a download that brings nothing is begun", standard.download_attempts),
        ("--max-concurrent-downloads", "N", "layers of a pull that come at once", standard.concurrent_downloads),
        ("--max-concurrent-uploads", "N", "layers of a push that go at once", standard.concurrent_uploads),
    )
    for name, metavar, text, value in numbers:
        parser.add_argument(name, metavar=metavar, help=f"{text} (default %(default)s)", type=_positive(type(value)), default=value)


def _positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = kind(text)
        if not 0 < value < 1e6:
            raise ValueError(text)
        return value

    number.__name__ = "positive number"  # argparse names it in its message
    return number


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} is not NAME=VALUE")
    return name, value


def _runtimes(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Those of the machine that everybody knows, then NAME=PROGRAM [ARGUMENT ...] as asked for.  Raises ValueError."""
    found: dict[str, tuple[str, ...]] = {name: (path,) for name in KNOWN_RUNTIMES if (path := shutil.which(name))}
    for text in texts:
        name, _, command = text.partition("=")
        words = shlex.split(command)
        if not name or not words:
            raise ValueError(f"invalid runtime argument: {text}")
        name = name.lower()
        if name == RUNTIME:
            raise ValueError(f"runtime name '{name}' is reserved")
        found[name] = tuple(words)
    return found


def _pool(text: str) -> tuple[str, int]:
    parts = dict(_pair(part) for part in text.split(","))
    if set(parts) != {"base", "size"} or not parts["size"].isdigit():
        raise ValueError(f"{text!r} is not base=CIDR,size=N")
    return parts["base"], int(parts["size"])


def lock_data_root(settings: Settings, resources: ExitStack) -> None:
    """One daemon to a data root.  Raises BlockingIOError when another has it."""
    os.makedirs(settings.data_root, mode=0o710, exist_ok=True)
    os.makedirs(settings.run_root, mode=0o711, exist_ok=True)
    lock = os.open(f"{settings.data_root}/daemon.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    resources.callback(os.close, lock)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    pid_path = f"{settings.run_root}/wherry.pid"
    with open(pid_path, "w") as file:
        file.write(str(os.getpid()))
    resources.callback(_remove_own_pid, pid_path)


def _remove_own_pid(path: str) -> None:
    try:
        with open(path) as file:
            if file.read() == str(os.getpid()):
                os.unlink(path)
    except FileNotFoundError:
        return


async def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT."""
    supervisor = Supervisor(f"/{settings.tag}")
    await supervisor.start()  # first of all: the zygote is a fresh interpreter, and nothing else is loaded yet
    from wherry.api.server import Server
    from wherry.engine.engine import running_engine
    from wherry.engine.tasks import Tasks

    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, stopping, number)
    try:
        async with Tasks() as tasks:
            async with running_engine(settings, supervisor, tasks) as engine:
                server = Server(engine, tasks)
                for host in settings.hosts:
                    await server.listen(host)
                log.info("listening on %s", ", ".join(settings.hosts))
                await stopping.wait()
                await server.close()
                if settings.ephemeral:
                    await engine.remove_everything()
                await cancel_all()
    finally:
        await supervisor.close()


def _stop(stopping: asyncio.Event, number: int) -> None:
    log.info("stopping: %s", signal.Signals(number).name)
    stopping.set()


async def cancel_all() -> None:
    """End the engine's tasks; containers run on without them."""
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others, timeout=DRAIN_S)


def main(arguments: Sequence[str] | None = None) -> int:
    settings = parse(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(
        level=logging.DEBUG if settings.debug else logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    if os.geteuid() != 0:
        log.error("wherry daemon: needs root (rootless mode is not supported yet)")
        return 1
    os.umask(0o022)
    sys.setswitchinterval(SWITCH_S)
    _outlive_containers()
    with ExitStack() as resources:
        try:
            lock_data_root(settings, resources)
        except BlockingIOError:
            log.error("wherry daemon: another daemon uses %s", settings.data_root)
            return 1
        except OSError as broken:
            log.error("the daemon cannot start: %s", broken)
            return 1
        status = 0
        try:
            asyncio.run(serve(settings))
        except* (EngineError, OSError, ValueError) as group:  # a task group wraps what it raises
            for error in _flat(group):
                log.error("the daemon cannot start: %s", error)
            status = 1
    return status


def _outlive_containers() -> None:
    """When memory is short the kernel shall take a container first; what the daemon starts for one has the container's own score again."""
    with suppress(PermissionError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(str(OOM_SCORE))


def _flat(group: BaseExceptionGroup[Exception]) -> Iterator[Exception]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _flat(error)
        else:
            yield error


if __name__ == "__main__":
    sys.exit(main())
