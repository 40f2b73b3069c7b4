"""Credentials, tokens, redirects and retries against servers in this process."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp import web
from tests.registry.scripted import Handler, Server, run

from wherry.registry.client import Client
from wherry.registry.credentials import Credentials
from wherry.registry.transport import Patience, Refused, RegistryError, Unreachable, Untrusted
from wherry.registry.trust import Trust
from wherry.spec.digest import sha256
from wherry.spec.mirrors import parse_mirror, parse_token_server
from wherry.spec.reference import parse

ALICE = Credentials(username="alice", password="secret")
BASIC = "Basic " + base64.b64encode(b"alice:secret").decode()
MANIFEST = b'{"schemaVersion":2}'
IMPATIENT = Patience(connect_s=2, idle_s=1, document_s=2, retries=2, backoff_s=0.01, longest_pause_s=0.1)


async def fetch(server: Server, credentials: Credentials = ALICE, **options: Any) -> bytes:
    client = Client(patience=IMPATIENT, **options)
    try:
        return (await client.repository(parse(f"{server.host}/x/y:1"), credentials).manifest("1")).raw
    finally:
        await client.close()


def challenged(challenge: Callable[[], str], accepted: str) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") == accepted:
            return web.Response(body=MANIFEST)
        return web.Response(status=401, headers={"WWW-Authenticate": challenge()})

    return handler


def test_basic_credentials_go_to_a_registry_that_asks_for_them() -> None:
    async def body(stack: AsyncExitStack) -> None:
        server = await Server(challenged(lambda: 'Basic realm="x"', BASIC)).start(stack)
        assert await fetch(server) == MANIFEST
        with pytest.raises(Refused, match="no basic auth credentials"):
            await fetch(server, Credentials())

    run(body)


def test_a_token_is_got_from_the_realm_and_sent_as_bearer() -> None:
    async def body(stack: AsyncExitStack) -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            if request.path == "/token":
                assert request.headers["Authorization"] == BASIC
                assert request.query["scope"] == "repository:x/y:pull"
                assert request.query["service"] == "s"
                return web.json_response({"token": "t0ken"})
            if request.headers.get("Authorization") == "Bearer t0ken":
                return web.Response(body=MANIFEST)
            return web.Response(status=401, headers={"WWW-Authenticate": f'Bearer realm="http://{server.host}/token",service="s"'})

        server = await Server(handler).start(stack)
        assert await fetch(server) == MANIFEST
        assert [path.partition("?")[0] for _, path, _ in server.log] == ["/v2/", "/token", "/v2/x/y/manifests/1"]

    run(body)


def test_credentials_are_not_sent_to_a_realm_of_another_origin() -> None:
    async def body(stack: AsyncExitStack) -> None:
        async def token(request: web.Request) -> web.StreamResponse:
            return web.json_response({"token": "anonymous"})

        other = await Server(token).start(stack)
        server = await Server(challenged(lambda: f'Bearer realm="http://{other.host}/token"', "Bearer anonymous")).start(stack)
        assert await fetch(server) == MANIFEST
        assert len(other.log) == 1
        assert other.secrets == []

    run(body)


def test_a_token_server_elsewhere_is_told_credentials_when_the_settings_say_so() -> None:
    async def body(stack: AsyncExitStack) -> None:
        async def token(request: web.Request) -> web.StreamResponse:
            if "offline_token" in request.query:
                return web.json_response({"token": "alice", "refresh_token": "keep me"})
            return web.json_response({"token": "alice" if request.headers.get("Authorization") == BASIC else "anonymous"})

        other = await Server(token).start(stack)
        realm = f'Bearer realm="http://{other.host}/token",error="insufficient_scope"'
        server = await Server(challenged(lambda: realm, "Bearer alice")).start(stack)
        reason = f"{other.host} is not told the credentials for {server.host}, unless the daemon has --registry-token-server"
        pair = f"{server.host}={other.host}"
        with pytest.raises(Refused) as refused:
            await fetch(server)
        assert str(refused.value) == f"denied: requested access to the resource is denied ({reason} {pair})"
        with pytest.raises(Refused, match=r"^denied: requested access to the resource is denied$"):
            await fetch(server, Credentials())  # there was nothing to tell
        login = Credentials(username="alice", password="secret", server_address=server.host)
        for servers in ([], [parse_token_server(f"{other.host}={server.host}")]):
            client = Client(patience=IMPATIENT, trust=Trust(token_servers=servers))
            stack.push_async_callback(client.close)
            with pytest.raises(Untrusted, match=f"^{reason} {pair}$"):  # not "Login Succeeded" for any password at all
                await client.login(login)
        assert other.secrets == []
        trust = Trust(token_servers=[parse_token_server(pair)])
        assert await fetch(server, trust=trust) == MANIFEST
        client = Client(patience=IMPATIENT, trust=trust)
        stack.push_async_callback(client.close)
        assert await client.login(login) == "keep me"

    run(body)


@pytest.mark.parametrize("realm", ["file:///etc/passwd", "http://a:b@127.0.0.1/", "gopher://x/", ""])
def test_a_realm_that_is_no_plain_web_address_is_refused(realm: str) -> None:
    async def body(stack: AsyncExitStack) -> None:
        server = await Server(challenged(lambda: f'Bearer realm="{realm}"', "never")).start(stack)
        with pytest.raises(Untrusted, match="invalid token realm"):
            await fetch(server)

    run(body)


def test_an_endless_challenge_ends() -> None:
    async def body(stack: AsyncExitStack) -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            if request.path == "/token":
                return web.json_response({"token": "t"})
            return web.Response(status=401, headers={"WWW-Authenticate": f'Bearer realm="http://{server.host}/token"'})

        server = await Server(handler).start(stack)
        with pytest.raises(Refused, match="unauthorized"):
            await fetch(server)
        assert len(server.log) < 8

    run(body)


def test_credentials_are_left_behind_when_redirected_elsewhere() -> None:
    async def body(stack: AsyncExitStack) -> None:
        async def stranger(request: web.Request) -> web.StreamResponse:
            return web.Response(body=MANIFEST)

        other = await Server(stranger).start(stack)

        async def handler(request: web.Request) -> web.StreamResponse:
            if request.headers.get("Authorization") != BASIC:
                return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})
            raise web.HTTPTemporaryRedirect(f"http://{other.host}/elsewhere")

        server = await Server(handler).start(stack)
        assert await fetch(server) == MANIFEST
        assert other.log == [("GET", "/elsewhere", None)]

    run(body)


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://u:p@127.0.0.1/", ""])
def test_a_redirect_to_no_plain_web_address_is_refused(location: str) -> None:
    async def body(stack: AsyncExitStack) -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            return web.Response(body=b"{}") if request.path == "/v2/" else web.Response(status=307, headers={"Location": location})

        server = await Server(handler).start(stack)
        with pytest.raises(Untrusted, match="refused"):
            await fetch(server)

    run(body)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_registry_that_is_busy_is_asked_again(status: int) -> None:
    async def body(stack: AsyncExitStack) -> None:
        failures = 2

        async def handler(request: web.Request) -> web.StreamResponse:
            nonlocal failures
            if request.path != "/v2/" and failures:
                failures -= 1
                return web.Response(status=status, headers={"Retry-After": "0"})
            return web.Response(body=MANIFEST)

        server = await Server(handler).start(stack)
        assert await fetch(server) == MANIFEST
        failures = 99
        with pytest.raises(Refused):
            await fetch(server)
        assert failures == 99 - IMPATIENT.retries - 1

    run(body)


def test_a_manifest_that_trickles_or_never_ends_is_given_up() -> None:
    async def body(stack: AsyncExitStack) -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            if request.path == "/v2/":
                return web.Response(body=b"{}")
            response = web.StreamResponse()
            await response.prepare(request)
            while True:
                await response.write(b" ")
                await asyncio.sleep(0.1)

        server = await Server(handler).start(stack)
        with pytest.raises(RegistryError):
            await fetch(server)

    run(body)


def test_a_registry_that_is_not_there_is_told_at_once() -> None:
    async def body(stack: AsyncExitStack) -> None:
        client = Client(patience=IMPATIENT)
        stack.push_async_callback(client.close)
        with pytest.raises(Unreachable) as caught:
            await client.repository(parse("127.0.0.1:1/x:1"), Credentials()).manifest("1")
        assert str(caught.value) == 'Get "http://127.0.0.1:1/v2/": dial tcp 127.0.0.1:1: connect: connection refused'

    run(body)


def test_a_mirror_is_asked_first_without_credentials_and_passed_over_when_it_fails() -> None:
    async def body(stack: AsyncExitStack) -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            return web.Response(body=MANIFEST)

        mirror = await Server(handler).start(stack)
        client = Client(patience=IMPATIENT, mirrors=[parse_mirror(f"http://{mirror.host}")])
        stack.push_async_callback(client.close)
        first, *_ = client.sources(parse("library/x:1"), ALICE)
        assert (await first.manifest("1")).raw == MANIFEST
        assert mirror.secrets == []
        assert mirror.log[-1][1] == "/v2/library/x/manifests/1"

    run(body)


def test_tags_are_read_page_by_page() -> None:
    async def body(stack: AsyncExitStack) -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            if request.query.get("last") == "b":
                return web.json_response({"name": "x/y", "tags": ["c"]})
            return web.json_response({"tags": ["a", "b"]}, headers={"Link": '</v2/x/y/tags/list?last=b>; rel="next"'})

        server = await Server(handler).start(stack)
        client = Client(patience=IMPATIENT)
        stack.push_async_callback(client.close)
        assert await client.repository(parse(f"{server.host}/x/y"), Credentials()).tags() == ["a", "b", "c"]

    run(body)


def _token_server(registry: Callable[[], str], issue: Handler) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        if request.path == "/token":
            return await issue(request)
        if request.headers.get("Authorization") == "Bearer good":
            return web.Response(body=MANIFEST)
        return web.Response(status=401, headers={"WWW-Authenticate": f'Bearer realm="http://{registry()}/token",service="s"'})

    return handler


def test_a_login_brings_the_identity_token_that_is_used_from_then_on() -> None:
    async def body(stack: AsyncExitStack) -> None:
        async def issue(request: web.Request) -> web.StreamResponse:
            if request.method == "GET":
                assert request.headers["Authorization"] == BASIC
                assert request.query["offline_token"] == "true"
                return web.json_response({"token": "good", "refresh_token": "keep me"})
            form = await request.post()
            assert "Authorization" not in request.headers
            assert (form["grant_type"], form["refresh_token"], form["service"]) == ("refresh_token", "keep me", "s")
            return web.json_response({"access_token": "good", "expires_in": 300})

        server = await Server(_token_server(lambda: server.host, issue)).start(stack)
        client = Client(patience=IMPATIENT)
        stack.push_async_callback(client.close)
        login = Credentials(username="alice", password="secret", server_address=server.host)
        assert await client.login(login) == "keep me"
        again = Credentials(username="alice", identity_token="keep me", server_address=server.host)
        assert await client.login(again) == ""
        assert await fetch(server, again) == MANIFEST

    run(body)


def test_many_requests_at_once_ask_for_one_token() -> None:
    async def body(stack: AsyncExitStack) -> None:
        async def issue(request: web.Request) -> web.StreamResponse:
            return web.json_response({"token": "good"})

        server = await Server(_token_server(lambda: server.host, issue)).start(stack)
        client = Client(patience=IMPATIENT)
        stack.push_async_callback(client.close)
        repository = client.repository(parse(f"{server.host}/x/y:1"), ALICE)
        await asyncio.gather(*(repository.manifest("1") for _ in range(8)))
        assert sum(path.startswith("/token") for _, path, _ in server.log) == 1

    run(body)


def test_a_token_server_that_stumbles_is_asked_again() -> None:
    async def body(stack: AsyncExitStack) -> None:
        answers = iter([503, 429, 200])

        async def issue(request: web.Request) -> web.StreamResponse:
            return web.json_response({"token": "good"}, status=next(answers))

        server = await Server(_token_server(lambda: server.host, issue)).start(stack)
        assert await fetch(server) == MANIFEST

    run(body)


@pytest.mark.parametrize(("retry_after", "asked"), [("3600", 1), ("Fri, 31 Dec 9998 23:59:59 GMT", 1), ("0", 3), ("soon", 3)])
def test_a_registry_that_wants_to_be_left_alone_is(retry_after: str, asked: int) -> None:
    async def body(stack: AsyncExitStack) -> None:
        async def busy(request: web.Request) -> web.StreamResponse:
            return web.Response(status=200 if request.path == "/v2/" else 429, headers={"Retry-After": retry_after})

        server = await Server(busy).start(stack)
        with pytest.raises(Refused, match="toomanyrequests"):
            await fetch(server)
        assert len([1 for _, path, _ in server.log if "manifests" in path]) == asked

    run(body)


def test_who_takes_no_more_of_an_upload_is_left() -> None:
    async def body(stack: AsyncExitStack) -> None:
        never = asyncio.Event()

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for answer in (b"200 OK", b"202 Accepted\r\nLocation: /v2/x/y/blobs/uploads/1"):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 " + answer + b"\r\nContent-Length: 0\r\n\r\n")
            await never.wait()
            writer.close()

        async def zeros() -> AsyncIterator[bytes]:
            for _ in range(1000):
                yield bytes(1 << 20)

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        stack.callback(server.close)
        stack.callback(never.set)
        client = Client(patience=Patience(idle_s=0.2, retries=0))
        stack.push_async_callback(client.close)
        reference = parse(f"127.0.0.1:{server.sockets[0].getsockname()[1]}/x/y")
        with pytest.raises(RegistryError, match=r"Put .*i/o timeout"):
            await client.repository(reference, ALICE, push=True).upload(zeros, sha256(b""), size=1000 << 20)

    run(body)


def test_a_mount_asks_for_a_token_for_both_repositories_and_a_refusal_is_no_failure() -> None:
    async def body(stack: AsyncExitStack) -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            if request.path == "/token":
                return web.json_response({"token": "+".join(request.query.getall("scope"))})
            token = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if request.query.get("from", "") == "open/y" and token == "repository:x/y:pull,push+repository:open/y:pull":
                return web.Response(status=201)
            return web.Response(status=401, headers={"WWW-Authenticate": f'Bearer realm="http://{server.host}/token",service="s"'})

        server = await Server(handler).start(stack)
        client = Client(patience=IMPATIENT)
        stack.push_async_callback(client.close)
        repository = client.repository(parse(f"{server.host}/x/y"), ALICE, push=True)
        assert await repository.mount(sha256(b"1"), "open/y")
        assert not await repository.mount(sha256(b"1"), "closed/y")

    run(body)


def test_a_registry_that_is_started_again_meanwhile_is_asked_again() -> None:
    async def body(stack: AsyncExitStack) -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            return web.Response(body=MANIFEST)

        first = AsyncExitStack()
        server = await Server(handler).start(first)
        port = int(server.port)

        class Waiting(Patience):
            async def rest(self, attempt: int, retry_after: str | None = None, waiting: object = None) -> None:
                runner = web.ServerRunner(web.Server(handler))
                await runner.setup()
                stack.push_async_callback(runner.cleanup)
                await web.TCPSite(runner, "127.0.0.1", port).start()

        client = Client(patience=Waiting())
        stack.push_async_callback(client.close)
        repository = client.repository(parse(f"{server.host}/x/y"), ALICE)
        await repository.reach()
        await first.aclose()
        assert (await repository.manifest("1")).raw == MANIFEST

    run(body)


def test_what_is_looked_for_in_a_registry_is_told_to_that_one_only() -> None:
    async def body(stack: AsyncExitStack) -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            if request.path == "/v1/search":
                return web.json_response({"results": [{"name": request.query["q"]}]})
            return web.Response(status=404)

        server = await Server(handler).start(stack)
        client = Client(patience=IMPATIENT)
        stack.push_async_callback(client.close)
        assert await client.search(f"{server.host}/a/b", 7) == [{"name": "a/b"}]
        assert [path for _, path, _ in server.log] == ["/v1/_ping", "/v1/search?q=a%2Fb&n=7"]

        async def none(request: web.Request) -> web.StreamResponse:
            return web.Response(status=404)

        server.handler = none
        with pytest.raises(RegistryError, match=r"^Unexpected status code 404$"):
            await client.search(f"{server.host}/a/b", 7)
        with pytest.raises(
            RegistryError, match=r'endpoint "http://127\.0\.0\.1:1/v1/"\. HTTPS attempt: Get .*refused\. HTTP attempt: Get .*refused'
        ):
            await client.search("127.0.0.1:1/x", 7)

    run(body)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"details": "incorrect username or password"}, "unauthorized: incorrect username or password"),
        ({"errors": [{"code": "UNAUTHORIZED", "message": "no such account"}]}, "unauthorized: no such account"),
        ({}, "unauthorized: authentication required"),
    ],
)
def test_what_a_token_server_says_of_a_password_is_told(answer: dict[str, object], words: str) -> None:
    async def body(stack: AsyncExitStack) -> None:
        async def issue(request: web.Request) -> web.StreamResponse:
            return web.json_response(answer, status=401)

        server = await Server(_token_server(lambda: server.host, issue)).start(stack)
        client = Client(patience=IMPATIENT)
        stack.push_async_callback(client.close)
        with pytest.raises(Refused) as caught:
            await client.login(Credentials(username="alice", password="wrong", server_address=server.host))
        assert (caught.value.status, str(caught.value)) == (401, f'Get "http://{server.host}/v2/": {words}')
        with pytest.raises(Refused) as caught:
            await fetch(server)
        assert str(caught.value) == f'Head "http://{server.host}/v2/x/y/manifests/1": {words}'

    run(body)


def test_a_mirror_that_takes_connections_and_says_nothing_is_left_soon() -> None:
    async def body(stack: AsyncExitStack) -> None:
        never = asyncio.Event()

        async def silent(request: web.Request) -> web.StreamResponse:
            await never.wait()
            return web.Response()

        stack.callback(never.set)
        mirror = await Server(silent).start(stack)
        client = Client(patience=Patience(ping_s=0.1, idle_s=3600), mirrors=[parse_mirror(f"http://{mirror.host}")])
        stack.push_async_callback(client.close)
        first, *_ = client.sources(parse("library/x:1"), ALICE)
        with pytest.raises(RegistryError, match=rf'^Get "http://{mirror.host}/v2/": i/o timeout$'):
            await first.manifest("1")

    run(body)


@pytest.mark.parametrize(
    ("status", "text", "words"),
    [
        (418, "no more than a thousand cups\n", "unknown: no more than a thousand cups"),
        (400, '{"errors":[{"message":"only words"}]}', "unknown: only words"),
        (400, '{"errors":[{"code":"NAME_INVALID","message":"no"}]}', "name invalid: no"),
        (400, "", "received unexpected HTTP status: 400 Bad Request"),
        (400, "{}", "unknown: {}"),
        (501, "<html>", "received unexpected HTTP status: 501 Not Implemented"),
        (403, "<html>", "denied: requested access to the resource is denied"),
    ],
)
def test_what_is_no_error_of_a_registry_is_told_as_it_is(status: int, text: str, words: str) -> None:
    async def body(stack: AsyncExitStack) -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            return web.json_response({}) if request.path == "/v2/" else web.Response(status=status, text=text)

        server = await Server(handler).start(stack)
        with pytest.raises(Refused) as caught:
            await fetch(server)
        assert str(caught.value) == words

    run(body)
