"""One registry, as the ``manifest`` commands speak to it by themselves: manifests, small blobs, and mounts between repositories.

Every answer is bounded; credentials go to the registry and to the token service it names, nowhere else.
"""

from __future__ import annotations

from wherry.cli.flags import Failure
from wherry.client import jsontext
from wherry.client.http import ConnectError, Connection, ProtocolError, Tls, connect, quote
from wherry.spec.certificates import DIRECTORIES, sort_out, tls_reason
from wherry.spec.origin import Origin, may_issue_tokens, may_reach, origin_of

TYPE_CHECKING = False  # typing costs 8 ms to import
if TYPE_CHECKING:
    from wherry.cli.config import Credentials
    from wherry.client.http import Response

DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
LISTS = (DOCKER_LIST, OCI_INDEX)
ACCEPT = ", ".join((*LISTS, DOCKER_MANIFEST, OCI_MANIFEST))
MAX_BODY = 8 << 20
MAX_HOPS = 5


class Answer:
    """``headers``: names in lower case."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def media_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip()

    def reason(self) -> str:
        from wherry.cli.output import escape

        return escape(self.body[:300].decode("utf-8", "replace").strip())


class Registry:
    """``Authorization`` is learnt from its refusals, one for each repository and what is done there."""

    def __init__(self, host: str, credentials: Credentials | None, *, insecure: bool) -> None:
        self.host = host
        self._credentials = credentials
        local = host.rpartition(":")[0] or host
        plain = insecure or local in ("localhost", "[::1]") or local.startswith("127.")
        self._schemes = ("https", "http") if plain else ("https",)
        self._verify = not insecure
        self._origin: Origin | None = None
        self._authorizations: dict[str, str] = {}

    def manifest(self, repository: str, what: str) -> Answer:
        """The manifest ``what``, a tag or digest; status 404 when there is none.  Raises Failure when it is not the one of its digest."""
        answer = self.request("GET", f"/v2/{repository}/manifests/{what}", {"Accept": ACCEPT})
        if answer.status == 200 and ":" in what:
            _check(answer.body, what)
        return answer

    def blob(self, repository: str, digest: str) -> bytes:
        """A small blob.  Raises Failure."""
        answer = self.request("GET", f"/v2/{repository}/blobs/{digest}", {})
        for _ in range(MAX_HOPS):
            if answer.status not in (301, 302, 303, 307, 308):
                break
            answer = self._elsewhere(answer.headers.get("location", ""))
        if answer.status != 200:
            raise Failure(f"{self.host}/{repository}@{digest}: the registry answered {answer.status}: {answer.reason()}")
        _check(answer.body, digest)
        return answer.body

    def put_manifest(self, repository: str, what: str, media_type: str, body: bytes) -> None:
        """Raises Failure."""
        answer = self.request("PUT", f"/v2/{repository}/manifests/{what}", {"Content-Type": media_type}, body)
        if answer.status not in (200, 201):
            raise Failure(f"{self.host}/{repository}: the registry answered {answer.status}: {answer.reason()}")

    def mount(self, repository: str, digest: str, origin: str) -> None:
        """Have a blob of the repository ``origin`` in ``repository`` too.  Raises Failure."""
        if self.request("HEAD", f"/v2/{repository}/blobs/{digest}", {}).status == 200:
            return
        path = f"/v2/{repository}/blobs/uploads/?mount={quote(digest)}&from={quote(origin, b'/')}"
        answer = self.request("POST", path, {}, b"")
        if answer.status != 201:
            raise Failure(f"failed to mount blob {digest} from {origin} to {repository}: the registry answered {answer.status}")

    def request(self, method: str, path: str, headers: dict[str, str], body: bytes | None = None) -> Answer:
        """One request, asked again with the credentials that a refusal asks for.  Raises Failure when the registry cannot be reached."""
        key = f"{method in ('GET', 'HEAD')} {path.partition('/manifests/')[0].partition('/blobs/')[0]}"
        answer = self._once(method, path, headers, body, self._authorizations.get(key, ""))
        if answer.status == 401:
            self._authorizations[key] = self._answer(answer.headers.get("www-authenticate", ""))
            answer = self._once(method, path, headers, body, self._authorizations[key])
        return answer

    def _once(self, method: str, path: str, headers: dict[str, str], body: bytes | None, authorization: str) -> Answer:
        sent = {**headers, "Authorization": authorization} if authorization else headers
        problem: Exception | None = None
        for scheme in self._schemes:
            try:
                answer = _ask(scheme, self.host, method, path, sent, body, verify=self._verify)
            except (ConnectError, ProtocolError, OSError, ValueError) as error:
                problem = problem or error
                continue
            self._schemes = (scheme,)
            self._origin = origin_of(f"{scheme}://{self.host}")
            return answer
        raise Failure(
            f'failed to configure transport: error pinging v2 registry: Get "https://{self.host}/v2/": {_reason(problem, self.host)}'
        )

    def _elsewhere(self, location: str) -> Answer:
        """Where a registry sends for a blob; nobody there learns who asks."""
        if "://" not in location:
            return self.request("GET", location, {})
        scheme, host, path = self._reached(location)
        return _ask(scheme, host, "GET", path, {}, None, verify=self._verify)

    def _reached(self, url: str) -> tuple[str, str, str]:
        """Scheme, host and path of where the registry sends us.  Raises Failure where it may not."""
        assert self._origin is not None  # it has answered
        try:
            allowed = may_reach(self._origin, origin_of(url))
        except ValueError as error:
            raise Failure(str(error)) from None
        if not allowed:
            raise Failure(f"refused: {self.host} sends us to {url[:200]!r}")
        scheme, _, rest = url.partition("://")
        host, _, path = rest.partition("/")
        return scheme, host, f"/{path}"

    def _answer(self, challenge: str) -> str:
        """The Authorization header that a challenge asks for."""
        kind, _, rest = challenge.partition(" ")
        known = self._credentials
        if kind.lower() != "bearer":
            return _basic(known)
        fields = dict(challenge_fields(rest))
        realm = fields.get("realm", "")
        scheme, host, path = self._reached(realm)
        assert self._origin is not None  # it has answered
        if not may_issue_tokens(self._origin, origin_of(realm)):
            known = None
        query: dict[str, str] = {key: fields[key] for key in ("service", "scope") if key in fields}
        if known is not None and known.identity_token:
            query |= {"grant_type": "refresh_token", "client_id": "wherry", "refresh_token": known.identity_token}
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            answer = _ask(scheme, host, "POST", path, headers, _encoded(query).encode(), verify=self._verify)
        else:
            basic = _basic(known)
            headers = {"Authorization": basic} if basic else {}
            answer = _ask(scheme, host, "GET", f"{path}?{_encoded(query)}", headers, None, verify=self._verify)
        if answer.status != 200:
            raise Failure(f"unauthorized: the token service {host} answered {answer.status}")
        token = jsontext.parse(answer.body)
        return f"Bearer {token.get('token') or token.get('access_token') or ''}"


def _basic(credentials: Credentials | None) -> str:
    """The value of ``Authorization``, or nothing without a name."""
    if credentials is None or not credentials.username:
        return ""
    import binascii

    return "Basic " + binascii.b2a_base64(f"{credentials.username}:{credentials.password}".encode(), newline=False).decode()


def _encoded(query: dict[str, str]) -> str:
    return "&".join(f"{key}={quote(value)}" for key, value in query.items())


def challenge_fields(text: str) -> list[tuple[str, str]]:
    """``key="value",key="value"``; a comma may stand within quotes."""
    found = []
    while text:
        key, _, text = text.lstrip(", ").partition("=")
        if text.startswith('"'):
            value, _, text = text[1:].partition('"')
        else:
            value, _, text = text.partition(",")
        if key:
            found.append((key.strip().lower(), value))
    return found


def digest_of(body: bytes) -> str:
    from hashlib import sha256

    return "sha256:" + sha256(body).hexdigest()


def _check(body: bytes, digest: str) -> None:
    if digest_of(body) != digest:
        raise Failure(f"manifest verification failed for digest {digest}")


def _ask(scheme: str, host: str, method: str, path: str, headers: dict[str, str], body: bytes | None, *, verify: bool) -> Answer:
    address = host if ":" in host.rpartition("]")[2] else f"{host}:{443 if scheme == 'https' else 80}"
    connection = Connection(connect(f"{scheme}://{address}", _tls(host, verify=verify) if scheme == "https" else None), host)
    try:
        response = connection.request(method, path, headers, body)
        return Answer(response.status, response.headers, _limited(response))
    finally:
        connection.close()


def _tls(host: str, *, verify: bool) -> Tls:
    """What is laid down for ``host`` in the usual places.  Raises ValueError, OSError for what can't be used."""
    import os

    for place in DIRECTORIES:
        directory = os.path.join(place, host)
        if os.path.isdir(directory):
            authorities, pairs = sort_out(os.listdir(directory))
            certificate, key = pairs[0] if pairs else (None, None)
            return Tls(
                authorities=[os.path.join(directory, name) for name in authorities],
                certificate=certificate and os.path.join(directory, certificate),
                key=key and os.path.join(directory, key),
                verify=verify,
            )
    return Tls(verify=verify)


def _reason(problem: BaseException | None, host: str) -> str:
    """Why the registry can't be reached, in Docker's words."""
    cause = problem.__cause__ if problem is not None and problem.__cause__ is not None else problem
    if isinstance(cause, ConnectionRefusedError):
        return f"dial tcp {host}: connect: connection refused"
    kind = type(cause).__name__
    if kind == "gaierror":
        return f"dial tcp: lookup {host.partition(':')[0]}: no such host"
    return tls_reason(cause, host) if cause is not None and kind.startswith("SSL") else str(cause)


def _limited(response: Response) -> bytes:
    body = b""
    for piece in response:
        body += piece
        if len(body) > MAX_BODY:
            raise Failure("the registry's answer is larger than a manifest may be")
    return body
