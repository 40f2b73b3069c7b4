"""All registries: where each answers, who may be asked, login and search.

``Client.repository`` gives one repository as seen with one client's credentials.  Source: OCI distribution-spec 1.1.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import urlencode

from wherry.registry.credentials import Credentials
from wherry.registry.repository import Endpoint, Repository
from wherry.registry.transport import (
    Authorizer,
    Patience,
    Refused,
    RegistryError,
    Transport,
    Unauthenticated,
    Unreachable,
    Untrusted,
    read_capped,
)
from wherry.registry.trust import Trust, host_of
from wherry.spec import foreign
from wherry.spec import image as spec
from wherry.spec.mirrors import Mirror
from wherry.spec.origin import HUB_HOST, is_loopback, origin_of
from wherry.spec.proxies import Proxies
from wherry.spec.reference import DEFAULT_DOMAIN, Reference

_PING_MEMORY_S = 300.0
_HUB_AUTH = "index.docker.io"
_NO_ENDPOINT = (
    "invalid registry endpoint https://{host}/v1/: {error}. If this private registry supports only HTTP or HTTPS with an unknown CA "
    "certificate, please add `--insecure-registry {host}` to the daemon's arguments. In the case of HTTPS, if you have access to the "
    "registry's CA certificate, no need for the flag; simply place the CA certificate at /etc/docker/certs.d/{host}/ca.crt"
)


class Client:
    """All registries of a daemon.  ``mirrors``: asked before the registry that they mirror."""

    def __init__(
        self,
        *,
        trust: Trust | None = None,
        mirrors: Sequence[Mirror] = (),
        patience: Patience | None = None,
        proxies: Proxies | None = None,
    ) -> None:
        self.trust = trust or Trust()
        self.transport = Transport(patience, self.trust, proxies)
        self.mirrors = tuple(mirrors)
        self._endpoints: dict[str, tuple[Endpoint, float]] = {}

    async def close(self) -> None:
        await self.transport.close()

    def repository(self, reference: Reference, credentials: Credentials, *, push: bool = False) -> Repository:
        """The repository that ``reference`` is in.  No connection is made yet."""
        return Repository(
            self.transport, self.endpoint, reference.domain, reference.path, credentials, actions="pull,push" if push else "pull"
        )

    def sources(self, reference: Reference, credentials: Credentials) -> list[Repository]:
        """Where to pull ``reference`` from, best first: mirrors, never with its registry's credentials, then the registry itself."""
        urls = [mirror.url for mirror in self.mirrors if mirror.of == reference.domain]
        mirrors = [Repository(self.transport, self.endpoint, url, reference.path, Credentials()) for url in urls]
        return [*mirrors, self.repository(reference, credentials)]

    async def login(self, credentials: Credentials) -> str:
        """Ask the registry whether it takes ``credentials``; the identity token that it gives to be used instead, if it does.

        Raises Refused (401) when not, Unreachable. Source: POST /auth.
        """
        address = credentials.server_address.removeprefix("https://").removeprefix("http://").split("/")[0]
        domain = DEFAULT_DOMAIN if address in ("", _HUB_AUTH, DEFAULT_DOMAIN, HUB_HOST) else address
        endpoint = await self.endpoint(domain)
        wants_identity = not credentials.identity_token
        authorizer = Authorizer(origin_of(endpoint.base), credentials, endpoint.challenge, is_login=True, wants_identity=wants_identity)
        try:
            async with self.transport.request("GET", endpoint.base, authorizer):
                return authorizer.identity_token
        except Unauthenticated:
            raise
        except Refused as error:
            if error.status != 401:
                raise
            raise Refused(401, error.code, f"login attempt to {endpoint.base} failed with status: 401 Unauthorized") from error

    async def search(self, term: str, limit: int) -> list[dict[str, object]]:
        """Repositories that match ``term``, as Docker Hub describes them, or the registry that the term begins with.

        What is looked for in another registry is not told to the Hub. Raises RegistryError in Docker's words.  Source: ImageSearch.
        """
        host, slash, rest = term.partition("/")
        is_named = bool(slash) and ("." in host or ":" in host or host == "localhost")
        is_hub = not is_named or host in (DEFAULT_DOMAIN, _HUB_AUTH)
        base = f"https://{_HUB_AUTH}/v1/" if is_hub else await self._first_version(host)
        url = base + "search?" + urlencode({"q": rest if is_named else term, "n": limit})
        nobody = Authorizer(origin_of(url), Credentials())
        try:
            async with self.transport.request("GET", url, nobody, retry=False, authorise=False) as response:
                raw = await read_capped(response, spec.MANIFEST_LIMIT, self.transport.patience.document_s)
        except Refused as error:
            raise RegistryError(f"Unexpected status code {error.status}") from error
        try:
            results = foreign.loads(raw).get("results") or []
        except (ValueError, AttributeError, RecursionError) as error:
            raise Untrusted("the search result is not JSON") from error
        return [item for item in results if isinstance(item, dict)] if isinstance(results, list) else []

    async def _first_version(self, host: str) -> str:
        """Where the API's first version, which alone has a search, is asked for."""
        failures: dict[str, RegistryError] = {}
        for endpoint in self.addresses(host):
            base = endpoint.base.removesuffix("v2/") + "v1/"
            try:
                async with self.transport.request(
                    "GET", base + "_ping", Authorizer(origin_of(base), Credentials()), retry=False, authorise=False
                ):
                    return base
            except Refused:
                return base
            except RegistryError as error:
                failures[base.partition(":")[0]] = error
        if "http" not in failures:
            raise RegistryError(_NO_ENDPOINT.format(host=host, error=failures["https"]))
        attempts = f"HTTPS attempt: {failures.get('https', 'none')}. HTTP attempt: {failures['http']}"
        raise RegistryError(f'invalid registry endpoint "http://{host}/v1/". {attempts}')

    async def endpoint(self, domain: str) -> Endpoint:
        """How ``domain``, or the mirror of that URL, answers, asked once in a while.  Raises Unreachable in Docker's words."""
        known, until = self._endpoints.get(domain, (None, 0.0))
        if known is not None and time.monotonic() < until:
            return known
        host = HUB_HOST if domain == DEFAULT_DOMAIN else domain
        found = await self._first(self.addresses(host))
        self._endpoints[domain] = found, time.monotonic() + _PING_MEMORY_S
        return found

    def addresses(self, host: str) -> list[Endpoint]:
        """Where ``host`` may answer, in the order of asking; a mirror as its URL says, where nobody's secrets go.

        Without TLS only when that is allowed, and after TLS then, unless nothing leaves this machine.
        """
        if "://" in host:
            return [Endpoint(base=f"{host}/v2/")]
        secure, plain = Endpoint(base=f"https://{host}/v2/"), Endpoint(base=f"http://{host}/v2/")
        if not self.trust.is_insecure(host) or self.trust.has_authority(host):
            return [secure]
        return [plain, secure] if is_loopback(host_of(host)) else [secure, plain]

    async def _first(self, addresses: list[Endpoint]) -> Endpoint:
        """The first that answers.  Raises what went wrong with the one that is reached without TLS, as Docker does."""
        failures: dict[bool, RegistryError] = {}
        for endpoint in addresses:
            is_plain = endpoint.base.startswith("http:")
            try:
                return await self._ping(endpoint)
            except RegistryError as error:
                failures[is_plain] = error
                if is_plain and isinstance(error, Unreachable):
                    break
        raise failures[True in failures]

    async def _ping(self, endpoint: Endpoint) -> Endpoint:
        nobody = Authorizer(origin_of(endpoint.base), Credentials())
        asking = self.transport.request("GET", endpoint.base, nobody, expect=frozenset({200, 401}), retry=False, authorise=False)
        try:
            async with asyncio.timeout(self.transport.patience.ping_s), asking as response:
                return replace(endpoint, challenge=response.headers.get("WWW-Authenticate", ""))
        except TimeoutError as error:
            raise RegistryError(f'Get "{endpoint.base}": i/o timeout') from error
