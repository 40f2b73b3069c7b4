"""The processes of ``wherry registry``: a server in the foreground, the collector, the maker of password lines.

Run as ``python -m wherry.registry.serve WORK JSON``, where the JSON is one of ``spec/registry.py``: flags are the command line's affair.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import logging
import os
import signal
import ssl
import sys
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import msgspec

from wherry.registry.accounts import Accounts, BadPasswordFile, hash_password
from wherry.registry.bodies import Limits
from wherry.registry.bucket import open_bucket
from wherry.registry.client import Client
from wherry.registry.credentials import Credentials
from wherry.registry.eviction import Bound
from wherry.registry.garbage import collect
from wherry.registry.gate import Gate, serve_alone
from wherry.registry.holdings import Holdings
from wherry.registry.objects import Directory, Objects
from wherry.registry.rights import BadRightsFile, Rights
from wherry.registry.server import RegistryServer
from wherry.registry.server import access_log as access
from wherry.registry.through import Upstream
from wherry.registry.trust import Trust
from wherry.registry.uploads import Uploads
from wherry.spec.origin import HUB_HOST, is_loopback
from wherry.spec.reference import DEFAULT_DOMAIN
from wherry.spec.registry import Collect, Password, Serve, Storage
from wherry.store.content import sync_directory

log = logging.getLogger("wherry.registry")

_THREADS = 64


class Refusal(Exception):
    """What was asked for can't be done; the message is for the person who asked."""


def main(arguments: Sequence[str] | None = None) -> int:
    work, text = sys.argv[1:3] if arguments is None else arguments
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("aiohttp").setLevel(logging.CRITICAL)  # a client's bad HTTP is answered, and no news
    for library in ("botocore", "boto3", "s3transfer", "urllib3"):
        logging.getLogger(library).setLevel(logging.WARNING)
    os.umask(0o077)
    try:
        if work == "passwd":
            print_password_line(msgspec.json.decode(text, type=Password))
        elif work == "gc":
            collect_garbage(msgspec.json.decode(text, type=Collect))
        else:
            asyncio.run(serve(msgspec.json.decode(text, type=Serve)))
    except (OSError, ValueError, Refusal, ModuleNotFoundError) as error:
        sys.stderr.write(f"wherry registry {work}: {_said(error)}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _said(error: BaseException) -> str:
    """An error in a person's words: the file and the fact, no number."""
    if isinstance(error, OSError) and error.strerror and not isinstance(error, ssl.SSLError):
        return f"{error.filename}: {error.strerror.lower()}" if error.filename else error.strerror.lower()
    return str(error)


async def serve(order: Serve) -> None:
    """Until SIGTERM or SIGINT.  Raises OSError, ValueError, Refusal."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(_THREADS, "registry"))
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    access.setLevel(logging.WARNING if order.quiet else logging.INFO)
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(_alone(order.storage))
        accounts = _accounts(order.htpasswd, stack)
        rights = _rights(order.rights)
        tls = _tls(order)
        _warn(order, has_accounts=accounts is not None, has_tls=tls is not None)
        objects = await asyncio.to_thread(_objects, order.storage)
        if isinstance(objects, Directory):
            objects.sweep()
        holdings = Holdings(objects, Gate(os.path.join(order.storage.data, "gate")))
        uploads = Uploads(os.path.join(order.storage.data, "uploads"))
        tasks = await stack.enter_async_context(_Tasks())
        upstream = None
        if order.proxy:
            uploads.sweep(0)  # nobody can go on with what a cache had begun
            upstream = await _upstream(order, holdings, uploads, tasks, stack)
        limits = Limits(blob_bytes=order.max_blob_bytes)
        server = RegistryServer(
            holdings, uploads, accounts=accounts, rights=rights, read_only=order.read_only, upstream=upstream, limits=limits
        )
        stack.push_async_callback(server.close)
        host = f"[{order.host}]" if ":" in order.host else order.host
        try:
            port = await server.start(order.host, order.port, tls)
        except OSError as error:
            raise Refusal(f"--listen {host}:{order.port}: {os.strerror(error.errno or 0).lower()}") from error
        tasks.spawn(server.keep_house())
        log.info("listening on %s://%s:%d", "https" if tls else "http", host, port)
        await stopping.wait()
        log.info("stopping")


def collect_garbage(order: Collect) -> None:
    """Prints what was, or would be, removed."""
    _directory(order.storage)
    gate = Gate(os.path.join(order.storage.data, "gate"))
    holdings = Holdings(_objects(order.storage), gate)
    found = collect(holdings, gate, young_s=order.young_s, untagged=order.untagged, dry_run=order.dry_run)
    verb = "Would remove" if order.dry_run else "Removed"
    blobs = f"{found.blobs} blobs ({found.size_bytes} bytes)"
    sys.stdout.write(f"{verb} {found.manifests} manifests, {blobs}, {found.links} links of repositories to blobs\n")


def print_password_line(order: Password) -> None:
    """Ask for a password twice, or read one line of what is no terminal.  Raises Refusal."""
    if ":" in order.name or not order.name.isprintable() or not order.name:
        raise Refusal("a name is printable and has no colon")
    if sys.stdin.isatty():
        password = getpass.getpass(f"Password for {order.name}: ")
        if password != getpass.getpass("Again: "):
            raise Refusal("the passwords differ")
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        raise Refusal("an empty password")
    sys.stdout.write(f"{order.name}:{hash_password(password)}\n")


class _Tasks:
    """Tasks that are cancelled when the server ends; their failures are their own affair."""

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> _Tasks:
        await self._group.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        await self._group.__aexit__(None, None, None)  # what ends the server is no failure of a task

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._group.create_task(_logged(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception:  # the edge of a task: one that fails takes no other with it
        log.exception("in the background")


@contextlib.contextmanager
def _alone(storage: Storage) -> Iterator[None]:
    _directory(storage)
    try:
        fd = serve_alone(os.path.join(storage.data, "lock"))
    except BlockingIOError as error:
        raise Refusal(f"another registry serves {storage.data}") from error
    try:
        yield
    finally:
        os.close(fd)


def _accounts(path: str, stack: contextlib.AsyncExitStack) -> Accounts | None:
    if not path:
        return None
    try:
        accounts = Accounts(path)
    except BadPasswordFile as error:
        raise Refusal(f"{path}: {error}") from error
    stack.callback(accounts.close)
    return accounts


def _rights(path: str) -> Rights | None:
    try:
        return Rights(path) if path else None
    except BadRightsFile as error:
        raise Refusal(f"{path}: {error}") from error


def _directory(storage: Storage) -> None:
    os.makedirs(storage.data, mode=0o700, exist_ok=True)
    sync_directory(os.path.dirname(storage.data))


def _objects(storage: Storage) -> Objects:
    if storage.s3:
        return open_bucket(storage.s3, endpoint=storage.s3_endpoint, region=storage.s3_region)
    return Directory(os.path.join(storage.data, "objects"), os.path.join(storage.data, "staging"))


def _tls(order: Serve) -> ssl.SSLContext | None:
    if not order.tls_cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(order.tls_cert, order.tls_key)
    except (ssl.SSLError, OSError) as error:
        raise Refusal(f"--tls-cert {order.tls_cert}, --tls-key {order.tls_key}: {_said(error)}") from error
    if order.tls_client_ca:
        try:
            context.load_verify_locations(order.tls_client_ca)
        except (ssl.SSLError, OSError) as error:
            raise Refusal(f"--tls-client-ca {order.tls_client_ca}: {_said(error)}") from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _warn(order: Serve, *, has_accounts: bool, has_tls: bool) -> None:
    if is_loopback(order.host):
        return
    if not has_accounts and not order.tls_client_ca:
        what = "pull" if order.read_only or order.proxy else "pull, push and delete"
        log.warning("warning: anybody who reaches this address may %s: see --htpasswd and --tls-client-ca", what)
    elif not has_tls:
        log.warning("warning: passwords travel in the clear: see --tls-cert and --tls-key")


async def _upstream(order: Serve, holdings: Holdings, uploads: Uploads, tasks: _Tasks, stack: contextlib.AsyncExitStack) -> Upstream:
    domain, insecure = proxied(order.proxy)
    credentials = Credentials()
    if order.proxy_user:
        with open(order.proxy_password_file, encoding="utf-8") as file:
            credentials = Credentials(username=order.proxy_user, password=file.readline().rstrip("\r\n"))
    client = Client(trust=Trust(insecure=insecure), proxies=order.proxies)
    stack.push_async_callback(client.close)
    bound = await asyncio.to_thread(Bound, holdings, order.proxy_most_bytes) if order.proxy_most_bytes else None
    return Upstream(client, domain, credentials, holdings, uploads, tasks.spawn, fresh_s=order.proxy_fresh_s, bound=bound)


def proxied(text: str) -> tuple[str, tuple[str, ...]]:
    """The other registry's host and port, and itself again when it is plain HTTP.  Raises Refusal."""
    parts = urlsplit(text if "://" in text else f"https://{text}")
    if parts.scheme not in ("http", "https") or not parts.netloc or "@" in parts.netloc or parts.path.strip("/") or parts.query:
        raise Refusal(f"--proxy: {text!r} is not the address of a registry")
    if parts.netloc in (HUB_HOST, DEFAULT_DOMAIN, "index.docker.io"):
        return DEFAULT_DOMAIN, ()
    return parts.netloc, ((parts.netloc,) if parts.scheme == "http" else ())


if __name__ == "__main__":
    sys.exit(main())
