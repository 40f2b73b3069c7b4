"""The client and the hosts it may speak to without TLS; uploads are tested with a real registry in tests/images/test_push.py."""

from __future__ import annotations

import asyncio

import pytest

from wherry.registry.client import Client


@pytest.mark.parametrize(
    ("domain", "insecure"),
    [
        ("localhost:5000", True),
        ("127.3.4.5:5000", True),
        ("[::1]:5000", True),
        ("docker.io", False),
        ("10.1.2.3:5000", True),
        ("10.2.2.3:5000", False),
        ("plain.example", True),
        ("plain.example:81", True),
        ("port.example:5000", True),
        ("port.example:5001", False),
        ("localhost.example", False),
    ],
)
def test_only_loopback_and_what_the_settings_name_is_reached_without_tls(domain: str, insecure: bool) -> None:
    client = Client(insecure=["10.1.0.0/16", "plain.example", "port.example:5000"])
    assert client.is_insecure(domain) is insecure
    asyncio.run(client.close())
