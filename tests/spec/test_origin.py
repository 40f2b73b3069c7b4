"""What may be told where."""

from __future__ import annotations

import pytest

from wherry.spec.origin import Origin, is_loopback, may_issue_tokens, may_reach, origin_of

HUB = Origin("https", "registry-1.docker.io", 443)


@pytest.mark.parametrize(
    ("registry", "realm", "trusted"),
    [
        (HUB, "https://auth.docker.io/token", True),
        (HUB, "https://registry-1.docker.io/token", True),
        (HUB, "http://registry-1.docker.io/token", False),
        (HUB, "https://evil.example/token", False),
        (Origin("https", "registry.gitlab.com", 443), "https://gitlab.com/jwt/auth", True),
        (Origin("https", "git.example.org", 5050), "https://git.example.org/jwt/auth", True),
        (Origin("https", "registry.example.org", 443), "https://org/token", False),
        (Origin("https", "evil-gitlab.com", 443), "https://gitlab.com/jwt", False),
        (Origin("http", "127.0.0.1", 5000), "http://127.0.0.1:5000/token", True),
        (Origin("http", "127.0.0.1", 5000), "http://127.0.0.1:5001/token", False),
    ],
)
def test_only_a_realm_of_the_registry_sees_its_credentials(registry: Origin, realm: str, trusted: bool) -> None:
    assert may_issue_tokens(registry, origin_of(realm)) is trusted


@pytest.mark.parametrize(
    ("registry", "target", "allowed"),
    [
        (HUB, "https://production.cloudflare.docker.com/x", True),
        (HUB, "http://production.cloudflare.docker.com/x", False),
        (HUB, "https://127.0.0.1/x", False),
        (HUB, "https://169.254.169.254/latest", False),
        (HUB, "https://10.0.0.1/x", False),
        (HUB, "https://[::1]/x", False),
        (HUB, "https://localhost/x", False),
        (Origin("http", "127.0.0.1", 5000), "http://127.0.0.1:6000/x", True),
        (Origin("https", "10.0.0.5", 443), "https://10.0.0.6/x", True),
    ],
)
def test_a_public_registry_cannot_send_us_to_private_addresses(registry: Origin, target: str, allowed: bool) -> None:
    assert may_reach(registry, origin_of(target)) is allowed


@pytest.mark.parametrize(
    ("host", "loopback"), [("localhost", True), ("127.9.9.9", True), ("::1", True), ("128.0.0.1", False), ("a.b", False)]
)
def test_loopback_is_told_by_address(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
