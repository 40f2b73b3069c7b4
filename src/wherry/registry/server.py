"""A registry: the OCI distribution specification 1.1 over HTTP, on what ``holdings`` keeps.

Here: who is let in, which address means what, and how a connection ends. ``pulls`` and ``pushes`` do the work. Names, tags, digests and
upload ids pass a grammar (``naming``) before anything looks at them; headers that two readers could take differently are refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import ssl
import time
from collections.abc import Awaitable, Callable
from urllib.parse import unquote

from aiohttp import web

from wherry.registry.accounts import Accounts, Crowded
from wherry.registry.bodies import COMMON, Limits
from wherry.registry.failures import Failure, storage_failure
from wherry.registry.holdings import Holdings
from wherry.registry.naming import NAME_LIMIT, is_name
from wherry.registry.pulls import Call, MayPull, Pulls
from wherry.registry.pushes import Pushes
from wherry.registry.rights import Right, Rights
from wherry.registry.through import Upstream
from wherry.registry.uploads import Uploads

log = logging.getLogger(__name__)
access_log = logging.getLogger("wherry.registry.access")

_ROUTE = re.compile(r"/v2/(?P<name>.+?)/(?P<kind>tags|manifests|blobs/uploads|blobs|referrers)/(?P<rest>[^/]*)")
_SINGLE = ("Authorization", "Content-Length", "Content-Range", "Content-Type", "Host", "If-Range", "Range", "Transfer-Encoding")
_HEADER_BYTES = 32 << 10
_READ_AHEAD = 1 << 20
_SWEEP_S = 3600.0
_LAST_REQUESTS_S = 10.0

Handler = Callable[[Call], Awaitable[web.StreamResponse]]


class RegistryServer:
    """``upstream``: pull through a cache of it, and take no pushes.  ``start`` it, and ``close`` it."""

    def __init__(
        self,
        holdings: Holdings,
        uploads: Uploads,
        *,
        accounts: Accounts | None = None,
        rights: Rights | None = None,
        read_only: bool = False,
        upstream: Upstream | None = None,
        limits: Limits | None = None,
    ) -> None:
        limits = limits or Limits()
        self._uploads = uploads
        self._accounts = accounts
        self._rights = rights
        self._read_only = read_only or upstream is not None
        self._pulls = Pulls(holdings, limits, upstream)
        self._pushes = Pushes(holdings, uploads, limits)
        self._routes = self._table()
        server = _Server(
            self._handle,
            connections=limits.connections,
            max_line_size=_HEADER_BYTES,
            max_field_size=_HEADER_BYTES,
            keepalive_timeout=limits.idle_s,
            lingering_time=2,
            read_bufsize=_READ_AHEAD,
            auto_decompress=False,  # what is stored is what was sent
            access_log=None,
            handler_cancellation=True,
        )
        self._runner = web.ServerRunner(server, shutdown_timeout=1)
        self._site: web.TCPSite | None = None
        self._running = 0
        self._is_stopping = False
        self._is_idle = asyncio.Event()

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Listen; the port (which one, for port 0)."""
        await self._runner.setup()
        self._site = web.TCPSite(self._runner, host, port, ssl_context=tls)
        await self._site.start()
        return int(self._runner.addresses[-1][1])

    async def keep_house(self) -> None:
        """Give up abandoned uploads from time to time, until cancelled."""
        while True:
            await asyncio.to_thread(self._uploads.sweep)
            await asyncio.sleep(_SWEEP_S)

    async def close(self) -> None:
        """Listen no more, and let requests that run end, for some seconds.  The library's own shutdown reads no more of their bodies."""
        self._is_stopping = True
        if self._site is not None:
            await self._site.stop()
        if self._running:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_idle.wait(), _LAST_REQUESTS_S)
        await self._runner.cleanup()

    def _table(self) -> dict[str, dict[str, Handler]]:
        pulls, pushes = self._pulls, self._pushes
        manifests: dict[str, Handler] = {
            "GET": pulls.manifest,
            "HEAD": pulls.manifest,
            "PUT": pushes.put_manifest,
            "DELETE": pushes.delete_manifest,
        }
        uploads: dict[str, Handler] = dict.fromkeys(("POST", "GET", "PATCH", "PUT", "DELETE"), pushes.upload)
        return {
            "tags": {"GET": pulls.tags},
            "referrers": {"GET": pulls.referrers},
            "manifests": manifests,
            "blobs": {"GET": pulls.blob, "HEAD": pulls.blob, "DELETE": pushes.delete_blob},
            "blobs/uploads": uploads,
        }

    # --- one request

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self._running += 1
        try:
            response = await self._logged(request)
        finally:
            self._running -= 1
            if self._is_stopping and not self._running:
                self._is_idle.set()
        if not response.prepared:
            response.headers.update(COMMON)
            if self._is_stopping or (request.can_read_body and not request.content.at_eof()):
                response.force_close()  # the rest of a body that nobody wants is not read for long
        return response

    async def _logged(self, request: web.BaseRequest) -> web.StreamResponse:
        begun = time.monotonic()
        status, user = 0, "-"
        try:
            user = await self._user(request)
            response = await self._answer(request, user)
            status = response.status
        except (asyncio.CancelledError, ConnectionError):
            status = 499  # the client is gone; no answer reaches it
            raise
        except Exception as error:  # noqa: BLE001 - the edge: every failure is an answer
            failure = _failure(request, error)
            status, response = failure.status, failure.response()
        finally:
            _log_access(request, user, status, time.monotonic() - begun)
        return response

    async def _user(self, request: web.BaseRequest) -> str:
        for name in _SINGLE:
            if len(request.headers.getall(name, ())) > 1:
                raise Failure("UNSUPPORTED", f"more than one {name} header", status=400)
        if self._accounts is None:
            return "-"
        try:
            user = await self._accounts.user(request.headers.get("Authorization"))
        except Crowded:
            raise Failure("TOOMANYREQUESTS", headers={"Retry-After": "1"}) from None
        if user is None:
            raise Failure("UNAUTHORIZED", headers={"WWW-Authenticate": 'Basic realm="wherry registry", charset="UTF-8"'})
        return user

    async def _answer(self, request: web.BaseRequest, user: str) -> web.StreamResponse:
        path = unquote(request.raw_path.partition("?")[0], errors="strict")
        if len(set(request.query)) != len(request.query):
            raise Failure("UNSUPPORTED", "a parameter is given twice", status=400)
        if path in ("/v2/", "/v2", "/v2/_catalog"):
            if request.method not in ("GET", "HEAD"):
                raise Failure("UNSUPPORTED", headers={"Allow": "GET, HEAD"})
            return await self._pulls.catalog(request, self._may_pull(user)) if path.endswith("_catalog") else web.json_response({})
        found = _ROUTE.fullmatch(path)
        if found is None:
            raise Failure("NAME_UNKNOWN", "there is no such address", status=404)
        name = found["name"]
        if not is_name(name):
            raise Failure("NAME_INVALID", detail={"name": name[:NAME_LIMIT]})
        methods = self._routes[found["kind"]]
        if request.method not in methods:
            raise Failure("UNSUPPORTED", headers={"Allow": ", ".join(methods)})
        if self._read_only and request.method not in ("GET", "HEAD"):
            raise Failure("UNSUPPORTED", "this registry is read-only", headers={"Allow": "GET, HEAD"})
        if self._rights is not None and not self._rights.may(user, name, _needed(request.method, found["kind"])):
            raise Failure("DENIED", "requested access to the resource is denied", detail={"name": name})
        return await methods[request.method](Call(request=request, name=name, rest=found["rest"], may_pull=self._may_pull(user)))

    def _may_pull(self, user: str) -> MayPull | None:
        rights = self._rights
        return None if rights is None else lambda name: rights.may(user, name, Right.PULL)


def _needed(method: str, kind: str) -> Right:
    if kind == "blobs/uploads":  # to give one up is part of pushing
        return Right.PUSH
    return {"GET": Right.PULL, "HEAD": Right.PULL, "DELETE": Right.DELETE}.get(method, Right.PUSH)


class _Server(web.Server):
    """At most ``connections`` at a time; who comes when there are as many is turned away."""

    def __init__(
        self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], *, connections: int, **settings: object
    ) -> None:
        super().__init__(handler, **settings)  # type: ignore[arg-type]
        self._most = connections

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if len(self.connections) > self._most:
            transport.abort()


def _failure(request: web.BaseRequest, error: Exception) -> Failure:
    if isinstance(error, Failure):
        return error
    if isinstance(error, UnicodeDecodeError):
        return Failure("NAME_INVALID")
    if isinstance(error, web.RequestPayloadError):
        return Failure("BLOB_UPLOAD_INVALID", "the body is not HTTP")
    if isinstance(error, OSError):
        log.error("%s %s: %s", request.method, request.raw_path[:200], error)
        return storage_failure(error)
    log.exception("%s %s", request.method, request.raw_path[:200], exc_info=error)
    return Failure("UNKNOWN")


def _log_access(request: web.BaseRequest, user: str, status: int, took_s: float) -> None:
    if access_log.isEnabledFor(logging.INFO):
        line = json.dumps(f"{request.method} {request.raw_path[:1000]}")  # no control character reaches the log
        agent = json.dumps(request.headers.get("User-Agent", "-")[:200])
        access_log.info("%s %s %s %d %.3fs %s", request.remote or "-", user, line, status, took_s, agent)
