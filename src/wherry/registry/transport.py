"""HTTP to a registry: which scheme, whose credentials, how often again, how long, and how much.

Redirects are followed here by hand, so that credentials stay with their origin. Every answer is bounded in size and time.
Source: OCI distribution-spec 1.1; the distribution project's token authentication specification.
"""

from __future__ import annotations

import asyncio
import random
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urljoin

from wherry.errors import told
from wherry.registry.credentials import Credentials
from wherry.registry.trust import Stamp, Trust
from wherry.spec import foreign
from wherry.spec.certificates import tls_reason
from wherry.spec.origin import Origin, may_issue_tokens, may_reach, origin_of
from wherry.spec.proxies import Proxies

if TYPE_CHECKING:  # a daemon that never asks a registry does without its 0.1 s and 9 MB
    import aiohttp

USER_AGENT = "wherry/0.1"
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_HOPS = 10
_MAX_ERROR = 64 << 10
_MAX_TOKEN = 1 << 20
_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
_BEARER_ERRORS = {
    "insufficient_scope": ("DENIED", "requested access to the resource is denied"),
    "invalid_token": ("UNAUTHORIZED", "authentication required"),
}

_CHALLENGE = re.compile(r'([a-zA-Z_]+)="([^"]*)"')


Waiting = Callable[[int], None]


class RegistryError(Exception):
    """The registry, or what lies between, did not do what was asked; the message is Docker's where it has one."""


class Unreachable(RegistryError):
    """No connection could be made; asking again at once is of no use."""


class Untrusted(RegistryError):
    """The answer breaks a rule (size, address, digest): it was thrown away."""


class Refused(RegistryError):
    """The registry answered with an error of its own.  ``code``: as in ``MANIFEST_UNKNOWN``, or empty."""

    def __init__(self, status: int, code: str, message: str, *, retry_after: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after = retry_after

    @property
    def is_passing(self) -> bool:
        """Whether the same request may be taken a little later."""
        return self.status in _RETRIED


class Unauthenticated(Refused):
    """The request was not repeated: there is no name to give, or whoever issues tokens refuses one.  The message says all of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait, and how often to try."""

    connect_s: float = 10.0
    idle_s: float = 60.0
    ping_s: float = 15.0  # whether there is a registry at all, as long as Docker waits
    document_s: float = 120.0  # a manifest, a token: the whole answer
    retries: int = 3
    backoff_s: float = 0.25
    longest_pause_s: float = 20.0

    def pause_s(self, attempt: int, retry_after: str | None) -> float:
        wait: float = min(self.backoff_s * 2**attempt * (1 + random.random()), self.longest_pause_s)
        return max(wait, _seconds(retry_after))

    def may_retry(self, attempt: int, retry_after: str | None = None) -> bool:
        """Not as often as one likes, and not when the registry wants to be left alone for longer than anybody waits."""
        return attempt < self.retries and _seconds(retry_after) <= self.longest_pause_s

    async def rest(self, attempt: int, retry_after: str | None = None, waiting: Waiting | None = None) -> None:
        """``waiting``: told the whole seconds that are left, each second."""
        pause_s = self.pause_s(attempt, retry_after)
        if waiting is not None:
            while pause_s >= 1:
                waiting(int(pause_s))
                await asyncio.sleep(1)
                pause_s -= 1
        await asyncio.sleep(pause_s)


@dataclass(slots=True)
class Authorizer:
    """Credentials bound to one registry origin, and the tokens got with them, by scope.

    ``is_login``: credentials that can't be shown are a failure. ``wants_identity``: ask for an ``identity_token`` too, that a client can
    keep instead of its password. ``untold``: a token server that was not told who asks.
    """

    origin: Origin
    credentials: Credentials
    challenge: str = ""
    tokens: dict[str, tuple[str, float]] = field(default_factory=dict)
    is_login: bool = False
    wants_identity: bool = False
    untold: str = ""
    identity_token: str = ""

    def header(self, scope: str, now: float) -> str:
        """The ``Authorization`` to send to the origin, or nothing yet."""
        if self.credentials.registry_token:
            return "Bearer " + self.credentials.registry_token
        if self.challenge.lower().startswith("basic"):
            return self.credentials.basic
        token, expires = self.tokens.get(scope, ("", 0.0))
        return "Bearer " + token if now < expires else ""


class Transport:
    """One pool of connections for all registries.  ``close`` it."""

    def __init__(self, patience: Patience | None = None, trust: Trust | None = None, proxies: Proxies | None = None) -> None:
        self.patience = patience or Patience()
        self.trust = trust or Trust()
        self.proxies = proxies or Proxies()
        self._session: aiohttp.ClientSession | None = None
        self._contexts: dict[Origin, tuple[ssl.SSLContext | bool, Stamp]] = {}

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    @asynccontextmanager
    async def request(
        self,
        method: str,
        url: str,
        authorizer: Authorizer,
        *,
        scope: str = "",
        headers: Mapping[str, str] | None = None,
        body: Callable[[], Any] | None = None,
        expect: frozenset[int] = frozenset({200}),
        retry: bool = True,
        authorise: bool = True,
        waiting: Waiting | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer to one request, with a status in ``expect``; tokens, redirects and retries are dealt with.

        ``body``: called for each attempt. ``waiting``: told of pauses between them. Raises Unreachable, Untrusted, Refused, RegistryError.
        """
        attempt = 0
        authorised = not authorise
        while True:
            retry_after: str | None = None
            try:
                response = await self._follow(method, url, authorizer, scope, headers or {}, body)
            except flakes() as error:
                if not retry or not self.patience.may_retry(attempt) or (_is_final(error) and not _is_refused(error)):
                    raise _unreachable(method, url, error) from error
            else:
                if response.status in expect:
                    try:
                        yield response
                    finally:
                        response.release() if response.content.at_eof() else response.close()
                    return
                refusal = _explained(await _refusal(response), authorizer)
                challenge = response.headers.get("WWW-Authenticate", "")
                response.close()
                if response.status == 401 and not authorised and challenge and origin_of(str(response.url)) == authorizer.origin:
                    authorised = True
                    await self._answer(method, url, authorizer, scope, challenge)
                    continue
                retry_after = refusal.retry_after
                if not refusal.is_passing or not retry or not self.patience.may_retry(attempt, retry_after):
                    raise refusal
            await self.patience.rest(attempt, retry_after, waiting)
            attempt += 1

    async def _follow(
        self,
        method: str,
        url: str,
        authorizer: Authorizer,
        scope: str,
        headers: Mapping[str, str],
        body: Callable[[], Any] | None,
    ) -> aiohttp.ClientResponse:
        for _ in range(_MAX_HOPS):
            sent = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **headers}
            authorization = authorizer.header(scope, time.monotonic())
            if authorization and origin_of(url) == authorizer.origin:
                sent["Authorization"] = authorization
            async with asyncio.timeout(None) as deadline:
                data = body() if body else None
                if isinstance(data, AsyncIterator):
                    data = _taken(data, deadline, self.patience.idle_s)
                response = await self._send(method, url, headers=sent, data=data)
            if response.status not in _REDIRECTS or method not in ("GET", "HEAD"):
                return response
            location = response.headers.get("Location", "")
            response.close()
            url = self.resolve(url, location, authorizer.origin)
        raise Untrusted(f'{method.capitalize()} "{url}": stopped after {_MAX_HOPS} redirects')

    @staticmethod
    def resolve(url: str, location: str, registry: Origin) -> str:
        """``location`` as the registry meant it, relative to ``url``.  Raises Untrusted when it leads where it may not."""
        try:
            target = urljoin(url, location)
            allowed = bool(location) and may_reach(registry, origin_of(target))
        except ValueError as error:
            raise Untrusted(str(error)) from error
        if not allowed:
            raise Untrusted(f"refused: {registry.host} redirects to {location[:200]!r}")
        return target

    async def authorise(self, method: str, url: str, authorizer: Authorizer, scope: str) -> None:
        """Answer the challenge that ``authorizer`` remembers, before the first request: it saves a refused one.

        ``method``: of the request that a refusal names; empty for none.
        """
        if not authorizer.header(scope, time.monotonic()):
            await self._answer(method, url, authorizer, scope, authorizer.challenge)

    async def _answer(self, method: str, url: str, authorizer: Authorizer, scope: str, challenge: str) -> None:
        authorizer.challenge = challenge
        kind = challenge.partition(" ")[0].lower()
        asked = f'{method.capitalize()} "{url}": ' if method else ""
        if kind == "basic":
            if not authorizer.credentials.basic:
                raise Unauthenticated(401, "", f"{asked}no basic auth credentials")
        elif kind == "bearer":
            try:
                authorizer.tokens[scope] = await self._token(authorizer, scope, dict(_CHALLENGE.findall(challenge)))
            except Refused as answer:
                error = _explained(answer, authorizer)
                raise Unauthenticated(error.status, error.code, f"{asked}{error}", retry_after=error.retry_after) from error
        else:
            raise Refused(401, "UNAUTHORIZED", f'{method.capitalize()} "{url}": unknown authentication scheme {kind[:40]!r}')

    async def _token(self, authorizer: Authorizer, scope: str, challenge: dict[str, str]) -> tuple[str, float]:
        realm = challenge.get("realm", "")
        try:
            origin = origin_of(realm)
        except ValueError as error:
            raise Untrusted(f"invalid token realm: {error}") from error
        if not may_reach(authorizer.origin, origin):
            raise Untrusted(f"refused: {authorizer.origin.host} sends us to {realm[:200]!r} for a token")
        credentials = authorizer.credentials
        if not may_issue_tokens(authorizer.origin, origin) and not self.trust.has_token_server(authorizer.origin, origin):
            authorizer.untold = "" if credentials.is_empty else origin.domain
            credentials = Credentials()
        if authorizer.untold and authorizer.is_login:
            raise Untrusted(_untold(authorizer))
        scope = scope or challenge.get("scope", "")
        query = {"service": challenge["service"]} if challenge.get("service") else {}
        headers = {"User-Agent": USER_AGENT}
        if credentials.identity_token:
            form = {**query, "grant_type": "refresh_token", "client_id": "wherry", "refresh_token": credentials.identity_token}
            form |= {"scope": scope} if scope else {}
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            answer = await self._ask_for_token("POST", realm, headers, urlencode(form).encode())
        else:
            if credentials.basic:
                headers["Authorization"] = credentials.basic
                query["account"] = credentials.username
                if authorizer.wants_identity:
                    query |= {"offline_token": "true", "client_id": "wherry"}
            asked = urlencode([*query.items(), *(("scope", one) for one in scope.split())])  # several are asked for one by one here
            url = realm + ("&" if "?" in realm else "?") + asked if asked else realm
            answer = await self._ask_for_token("GET", url, headers, None)
            if credentials.basic and isinstance(answer.get("refresh_token"), str):
                authorizer.identity_token = answer["refresh_token"]
        token = answer.get("token") or answer.get("access_token")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise Untrusted("authorization server did not include a token in the response")
        lifetime = answer.get("expires_in")
        lifetime_s = float(lifetime) if isinstance(lifetime, int | float) and 60 <= lifetime <= 86400 else 60.0
        return token, time.monotonic() + lifetime_s - 10

    async def _ask_for_token(self, method: str, url: str, headers: Mapping[str, str], form: bytes | None) -> dict[str, Any]:
        """What an authorization server answers; redirects are not followed.  Raises Refused, Untrusted, Unreachable, RegistryError."""
        attempt = 0
        while True:
            retry_after: str | None = None
            try:
                response = await self._send(method, url, headers=headers, data=form)
            except flakes() as error:
                if not self.patience.may_retry(attempt) or _is_final(error):
                    raise _unreachable(method, url, error) from error
            else:
                try:
                    if response.status == 200:
                        return _json_object(await read_capped(response, _MAX_TOKEN, self.patience.document_s))
                    refusal = await _refusal(response)
                    retry_after = refusal.retry_after
                    if not refusal.is_passing or not self.patience.may_retry(attempt, retry_after):
                        raise refusal
                finally:
                    response.close()
            await self.patience.rest(attempt, retry_after)
            attempt += 1

    async def _send(self, method: str, url: str, *, headers: Mapping[str, str], data: Any) -> aiohttp.ClientResponse:
        import aiohttp
        from yarl import URL

        if self._session is None:
            timeout = aiohttp.ClientTimeout(
                total=None, connect=self.patience.connect_s, sock_connect=self.patience.connect_s, sock_read=self.patience.idle_s
            )
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=60),
                timeout=timeout,
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=1 << 20,
            )
        return await self._session.request(
            method,
            URL(url, encoded=True),
            headers=headers,
            data=data,
            allow_redirects=False,
            ssl=self._context(origin_of(url)),
            proxy=self.proxies.for_url(url),
        )

    def _context(self, origin: Origin) -> ssl.SSLContext | bool:
        """As ``trust`` has it by now: certificates are renewed, or laid down when one was missing.  Raises Untrusted."""
        try:
            stamp = self.trust.stamp(origin)
            known = self._contexts.get(origin)
            if known is None or known[1] != stamp:
                known = self._contexts[origin] = self.trust.context(origin), stamp
        except (OSError, ValueError) as error:
            raise Untrusted(told(error)) from error
        return known[0]


async def _taken(pieces: AsyncIterator[bytes], deadline: asyncio.Timeout, idle_s: float) -> AsyncIterator[bytes]:
    """A body of which each piece must be taken in time: who stops reading holds nobody up.  What makes the pieces has all the time."""
    loop = asyncio.get_running_loop()
    async for piece in pieces:
        deadline.reschedule(loop.time() + idle_s)
        yield piece
        deadline.reschedule(None)


async def read_capped(response: aiohttp.ClientResponse, limit: int, deadline_s: float) -> bytes:
    """The whole body.  Raises Untrusted beyond ``limit`` bytes or ``deadline_s``."""
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(deadline_s):
            async for chunk in response.content.iter_any():
                size += len(chunk)
                if size > limit:
                    raise Untrusted(f"{response.url.path}: the answer is larger than {limit} bytes")
                parts.append(chunk)
    except flakes() as error:
        raise RegistryError(f"{response.url.path}: unexpected EOF ({reason(error)})") from error
    return b"".join(parts)


async def _refusal(response: aiohttp.ClientResponse) -> Refused:
    """The registry's own error, in the words Docker makes of it: ``manifest unknown: manifest unknown``."""
    raw = b""
    answer: dict[str, Any] = {}
    with suppress(RegistryError):
        raw = await read_capped(response, _MAX_ERROR, 10)
        answer = _json_object(raw)
    said: object = "" if answer else raw.decode("utf-8", "replace").strip()
    errors = answer.get("errors")
    retry_after = response.headers.get("Retry-After")
    challenge = response.headers.get("WWW-Authenticate", "")
    if challenge[:7].lower() == "bearer ":  # it says more than the body does: RFC 6750, 3
        fields = dict(_CHALLENGE.findall(challenge))
        if fields.get("error") in _BEARER_ERRORS:
            kind, usual = _BEARER_ERRORS[fields["error"]]
            return Refused(response.status, kind, _worded(kind, fields.get("error_description") or usual), retry_after=retry_after)
    if isinstance(errors, list) and errors and isinstance(errors[0], dict):
        code = errors[0].get("code")
        said = errors[0].get("message")
        if isinstance(code, str) and re.fullmatch(r"[A-Z_]{1,60}", code):
            return Refused(response.status, code, _worded(code, said), retry_after=retry_after)
    known = {
        401: ("UNAUTHORIZED", "unauthorized: authentication required"),
        403: ("DENIED", "denied: requested access to the resource is denied"),
        404: ("", "error parsing HTTP 404 response body: not found"),
        429: ("TOOMANYREQUESTS", "toomanyrequests: too many requests"),
    }
    code, words = known.get(response.status, ("", f"received unexpected HTTP status: {response.status} {response.reason or ''}".rstrip()))
    if response.status not in known and response.status < 500 and said:  # of a proxy, say: it tells more than the number
        words = _worded("UNKNOWN", said)
    if code and answer.get("details"):  # as Docker Hub's token server says what is wrong with a password
        words = _worded(code, answer["details"])
    return Refused(response.status, code, words, retry_after=retry_after)


def _explained(refusal: Refused, authorizer: Authorizer) -> Refused:
    """With what may be the reason, where credentials were kept back."""
    if authorizer.untold and refusal.status in (401, 403):
        return Refused(refusal.status, refusal.code, f"{refusal} ({_untold(authorizer)})", retry_after=refusal.retry_after)
    return refusal


def _untold(authorizer: Authorizer) -> str:
    registry, host = authorizer.origin.domain, authorizer.untold
    return f"{host} is not told the credentials for {registry}, unless the daemon has --registry-token-server {registry}={host}"


def _worded(code: str, text: object) -> str:
    words = code.lower().replace("_", " ")
    return f"{words}: {text[:2000]}" if isinstance(text, str) and text else words


def _seconds(retry_after: str | None) -> float:
    """How long a ``Retry-After`` is: seconds, or a date.  0 for anything else."""
    if not retry_after:
        return 0.0
    if retry_after.isdecimal():
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def _json_object(raw: bytes) -> dict[str, Any]:
    try:
        answer = foreign.loads(raw)
    except (ValueError, RecursionError) as error:
        raise Untrusted("the answer is not JSON") from error
    if not isinstance(answer, dict):
        raise Untrusted("the answer is not a JSON object")
    return answer


def _is_final(error: BaseException) -> bool:
    """Whether the failure is one that waiting a second does not mend."""
    import aiohttp

    return isinstance(
        error, aiohttp.ClientConnectorError | aiohttp.ClientHttpProxyError | aiohttp.InvalidURL | aiohttp.ConnectionTimeoutError
    )


def _is_refused(error: BaseException) -> bool:
    """Whether nobody listens now: a registry that answered a moment ago (somebody has pinged it) may be starting again."""
    import aiohttp

    return isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, ConnectionRefusedError)


def _unreachable(method: str, url: str, error: BaseException) -> RegistryError:
    text = f'{method.capitalize()} "{url.partition("?")[0]}": {reason(error)}'
    return Unreachable(text) if _is_final(error) else RegistryError(text)


def flakes() -> tuple[type[Exception], ...]:
    """What networks do, and another attempt may mend."""
    import aiohttp

    return aiohttp.ClientError, TimeoutError, ConnectionError


def reason(error: BaseException) -> str:
    import aiohttp

    if isinstance(error, aiohttp.ClientConnectorDNSError):
        os_error = error.os_error
        temporary = isinstance(os_error, socket.gaierror) and os_error.errno == socket.EAI_AGAIN
        return f"dial tcp: lookup {error.host}: {'Temporary failure in name resolution' if temporary else 'no such host'}"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return tls_reason(error.certificate_error, error.host)
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return tls_reason(error.os_error, error.host)
    if isinstance(error, aiohttp.ClientOSError) and isinstance(error.__cause__, ssl.SSLError):  # told after the handshake, by TLS 1.3
        return tls_reason(error.__cause__, "")
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return error.message
    if isinstance(error, aiohttp.ClientConnectorError):
        words = {"ConnectionRefusedError": "connection refused"}
        text = words.get(type(error.os_error).__name__, (error.os_error.strerror or str(error.os_error)).lower())
        first = "proxyconnect tcp: " if isinstance(error, aiohttp.ClientProxyConnectionError) else ""
        return f"{first}dial tcp {error.host}:{error.port}: connect: {text}"
    if isinstance(error, TimeoutError):
        return "i/o timeout"
    if isinstance(error, aiohttp.ClientPayloadError | aiohttp.ServerDisconnectedError):
        return "unexpected EOF"
    if isinstance(error, aiohttp.ClientResponseError):  # what came is not HTTP, or more of it than anybody needs
        return f"malformed HTTP response: {error.message}"
    return str(error) or type(error).__name__
