"""``wherry manifest inspect``: what a registry answers for a name, asked by the client itself."""

from __future__ import annotations

import sys

from wherry.cli.config import Credentials, load, server_of
from wherry.cli.flags import Command, Failure, Flag, Invocation
from wherry.cli.registry_auth import read_reference
from wherry.client import jsontext
from wherry.client.http import ConnectError, Connection, ProtocolError, Tls, connect, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.client.http import Response

LISTS = ("application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.oci.image.index.v1+json")
ACCEPT = ", ".join((*LISTS, "application/vnd.docker.distribution.manifest.v2+json", "application/vnd.oci.image.manifest.v1+json"))
HUB_HOST = "registry-1.docker.io"
MAX_MANIFEST = 8 << 20


class Registry:
    """One registry, as far as reading a manifest goes.  ``Authorization`` is learnt from its first refusal."""

    def __init__(self, host: str, credentials: Credentials | None, *, insecure: bool) -> None:
        self.host = host
        self._credentials = credentials
        local = host.rpartition(":")[0] or host
        plain = insecure or local in ("localhost", "[::1]") or local.startswith("127.")
        self._schemes = ("https", "http") if plain else ("https",)
        self._verify = not insecure
        self._authorization = ""

    def get(self, path: str) -> tuple[int, str, bytes]:
        """Status, media type and body.  Raises Failure when it cannot be reached."""
        status, headers, body = self._once(path)
        if status == 401 and not self._authorization:
            self._authorization = self._answer(headers.get("www-authenticate", ""))
            status, headers, body = self._once(path)
        return status, headers.get("content-type", "").partition(";")[0], body

    def _once(self, path: str) -> tuple[int, dict[str, str], bytes]:
        headers = {"Accept": ACCEPT}
        if self._authorization:
            headers["Authorization"] = self._authorization
        problem: Exception | None = None
        for scheme in self._schemes:
            try:
                return _get(scheme, self.host, path, headers, verify=self._verify)
            except (ConnectError, ProtocolError, OSError) as error:
                problem = error
        reason = problem.__cause__ if problem is not None and problem.__cause__ is not None else problem
        raise Failure(f'failed to configure transport: error pinging v2 registry: Get "https://{self.host}/v2/": {reason}')

    def _answer(self, challenge: str) -> str:
        """The Authorization header that a challenge asks for."""
        kind, _, rest = challenge.partition(" ")
        basic = ""
        if self._credentials is not None and self._credentials.username:
            import binascii

            pair = f"{self._credentials.username}:{self._credentials.password}".encode()
            basic = "Basic " + binascii.b2a_base64(pair, newline=False).decode()
        if kind.lower() != "bearer":
            return basic
        fields = dict(_challenge_fields(rest))
        realm = fields.get("realm", "")
        scheme, _, address = realm.partition("://")
        host, _, path = address.partition("/")
        if scheme != "https" and (scheme != "http" or "http" not in self._schemes):
            raise Failure(f"the registry {self.host} names a token service that is not secure: {realm}")
        query = "&".join(f"{key}={quote(fields[key])}" for key in ("service", "scope") if key in fields)
        status, _, body = _get(scheme, host, f"/{path}?{query}", {"Authorization": basic} if basic else {}, verify=self._verify)
        if status != 200:
            raise Failure(f"unauthorized: the token service {host} answered {status}")
        answer = jsontext.parse(body)
        return f"Bearer {answer.get('token') or answer.get('access_token') or ''}"


def _get(scheme: str, host: str, path: str, headers: dict[str, str], *, verify: bool) -> tuple[int, dict[str, str], bytes]:
    address = host if ":" in host.rpartition("]")[2] else f"{host}:{443 if scheme == 'https' else 80}"
    connection = Connection(connect(f"{scheme}://{address}", Tls(verify=verify) if scheme == "https" else None), host)
    try:
        response = connection.request("GET", path, headers)
        return response.status, response.headers, _limited(response)
    finally:
        connection.close()


def _limited(response: Response) -> bytes:
    body = b""
    for piece in response:
        body += piece
        if len(body) > MAX_MANIFEST:
            raise Failure("the registry's answer is larger than a manifest may be")
    return body


def _challenge_fields(text: str) -> list[tuple[str, str]]:
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


def run_inspect(invocation: Invocation) -> int:
    name = invocation.arguments[0]
    reference = read_reference(name).with_default_tag()
    host = HUB_HOST if reference.domain == "docker.io" else reference.domain
    credentials = load(invocation.program.config_dir).credentials(server_of(reference.domain))
    registry = Registry(host, credentials, insecure=invocation.flag("insecure"))
    status, media_type, body = registry.get(f"/v2/{reference.path}/manifests/{reference.digest or reference.tag}")
    if status == 404:
        raise Failure(f"no such manifest: {reference}")
    if status != 200:
        raise Failure(f"{reference}: the registry answered {status}: {_reason(body)}")
    try:
        found = jsontext.parse(body)
    except ValueError:
        raise Failure(f"{reference}: the registry's answer is not a manifest") from None
    sys.stdout.write(jsontext.pretty(found, "   " if media_type in LISTS else "\t") + "\n")
    return 0


def _reason(body: bytes) -> str:
    from wherry.cli.output import escape

    return escape(body[:300].decode("utf-8", "replace").strip())


INSPECT = Command(
    "[OPTIONS] MANIFEST",
    "Display an image manifest, or manifest list",
    run_inspect,
    flags=(
        Flag("insecure", "bool", "Allow communication with an insecure registry"),
        Flag("verbose", "bool", "Output additional info including layers and platform", short="v", refused="inspect each digest by itself"),
    ),
    minimum=1,
    maximum=1,
)
