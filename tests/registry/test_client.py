"""Where registries are looked for; downloads and uploads are tested in tests/images, with a lying registry and a real one."""

from __future__ import annotations

from pathlib import Path

import pytest

from wherry.registry.client import Client
from wherry.registry.credentials import Credentials
from wherry.registry.trust import Trust
from wherry.spec.mirrors import parse_mirror
from wherry.spec.reference import parse


@pytest.mark.parametrize(
    ("host", "schemes"),
    [
        ("reg.example", "https"),
        ("10.9.0.1:5000", "https"),
        ("10.1.0.1:5000", "https http"),  # allowed, but not before TLS was tried: names and passwords may go there
        ("plain.example", "https http"),
        ("localhost:5000", "http https"),  # nothing leaves the machine
        ("127.0.0.1:5001", "https"),  # somebody said who vouches for it
        ("mirror.example", "https"),  # also named in a mirror's URL: names and passwords may go there by its own name
    ],
)
def test_schemes_are_tried_in_the_order_that_keeps_secrets(host: str, schemes: str, tmp_path: Path) -> None:
    directory = tmp_path / "127.0.0.1:5001"
    directory.mkdir()
    (directory / "ca.crt").touch()
    trust = Trust(insecure=["10.1.0.0/16", "plain.example"], certificates=[str(tmp_path)])
    client = Client(trust=trust, mirrors=[parse_mirror("http://mirror.example")])
    assert [endpoint.base for endpoint in client.addresses(host)] == [f"{scheme}://{host}/v2/" for scheme in schemes.split()]


@pytest.mark.parametrize("url", ["http://mirror.example", "https://127.0.0.1:5000", "https://shop.example/repository/docker"])
def test_a_mirror_is_asked_as_its_url_says(url: str) -> None:
    client = Client(mirrors=[parse_mirror(url)])
    mirror, _ = client.sources(parse("x"), Credentials())
    assert [endpoint.base for endpoint in client.addresses(mirror.domain)] == [f"{url}/v2/"]


def test_a_registry_is_asked_after_its_own_mirrors_only() -> None:
    client = Client(mirrors=[parse_mirror(text) for text in ("https://hub.example", "ghcr.io=https://cat.example", "https://too.example")])
    for name, hosts in (
        ("x", ["https://hub.example", "https://too.example", "docker.io"]),
        ("ghcr.io/a/b", ["https://cat.example", "ghcr.io"]),
        ("quay.io/a/b", ["quay.io"]),
    ):
        assert [source.domain for source in client.sources(parse(name), Credentials())] == hosts
