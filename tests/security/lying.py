"""A registry that lies, in a thread of the tests' own process: that of tests/images/conftest.py, with the lies of test_pull.py."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.images.conftest import FakeRegistry


@contextmanager
def lying_registry() -> Iterator[FakeRegistry]:
    fake = FakeRegistry()
    loop = asyncio.new_event_loop()
    runner = loop.run_until_complete(fake.start())
    thread = threading.Thread(target=loop.run_forever, name="lying registry", daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
