"""A registry in this process that answers whatever a test tells it to, and the loop that such tests run in."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """``handler`` answers everything.  ``log``: method, path with query, and ``Authorization`` of each request."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.log: list[tuple[str, str, str | None]] = []
        self.host = ""

    async def start(self, stack: AsyncExitStack, context: ssl.SSLContext | None = None) -> Server:
        async def handle(request: web.Request) -> web.StreamResponse:
            self.log.append((request.method, request.path_qs, request.headers.get("Authorization")))
            return await self.handler(request)

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        self.host = f"127.0.0.1:{runner.addresses[0][1]}"
        return self

    @property
    def secrets(self) -> list[str]:
        return [authorization for _, _, authorization in self.log if authorization]

    @property
    def port(self) -> str:
        return self.host.rpartition(":")[2]


def run(body: Callable[[AsyncExitStack], Awaitable[None]]) -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            await body(stack)

    asyncio.run(main())
