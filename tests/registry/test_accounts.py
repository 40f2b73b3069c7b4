from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import pytest

from wherry.registry import accounts
from wherry.registry.accounts import Accounts, BadPasswordFile, Crowded, hash_password, parse, verify


def _basic(pair: str) -> str:
    return "Basic " + base64.b64encode(pair.encode()).decode()


def test_a_scrypt_line_knows_its_password() -> None:
    hashed = hash_password("pässword", cost=10)
    assert verify("pässword", hashed)
    assert not verify("password", hashed)
    assert not verify("x" * 5000, hashed)


def test_a_bcrypt_line_of_apaches_tool_is_read() -> None:
    bcrypt = pytest.importorskip("bcrypt", reason="needs the package bcrypt")
    hashed = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode().replace("$2b$", "$2y$")
    assert parse(f"# people\n\nann:{hashed}\n") == {"ann": hashed}
    assert verify("secret", hashed)
    assert not verify("secreT", hashed)


@pytest.mark.parametrize(
    "line",
    [
        "ann",
        ":$2y$05$x",
        "ann:secret",
        "ann:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=",
        "ann:$apr1$x$y",
        "ann:$scrypt$ln=40,r=8,p=1$AAAA$" + "A" * 43,
        "ann:$scrypt$ln=0,r=8,p=1$AAAA$" + "A" * 43,
        "ann:$scrypt$ln=15,r=8,p=1$AAAA$AAAA",
    ],
)
def test_a_line_that_can_not_be_used_is_named(line: str) -> None:
    with pytest.raises(BadPasswordFile, match="line 2"):
        parse("# first\n" + line)


async def _user(known: Accounts, *values: str | None) -> list[str | None]:
    return [await known.user(value) for value in values]


def test_a_file_that_breaks_lets_in_who_was_known(tmp_path: Path) -> None:
    path = tmp_path / "htpasswd"
    path.write_text(f"ann:{hash_password('one', cost=10)}\n")
    known = Accounts(str(path))
    try:
        assert asyncio.run(_user(known, _basic("ann:one"), _basic("ann:two"), _basic("bob:one"), None, "Bearer x")) == ["ann"] + [None] * 4
        path.write_text("ann:broken, and longer")
        assert asyncio.run(_user(known, _basic("ann:one"))) == ["ann"]
        path.write_text(f"ann:{hash_password('two', cost=10)}\n")
        assert asyncio.run(_user(known, _basic("ann:one"), _basic("ann:two"))) == [None, "ann"]
    finally:
        known.close()


def test_a_flood_of_passwords_is_turned_away(tmp_path: Path) -> None:
    path = tmp_path / "htpasswd"
    path.write_text(f"ann:{hash_password('one', cost=10)}\n")
    known = Accounts(str(path))

    async def flood() -> int:
        wrong = (known.user(_basic(f"ann:{number}")) for number in range(accounts._MOST_WAITING + 10))
        return sum(isinstance(found, Crowded) for found in await asyncio.gather(*wrong, return_exceptions=True))

    try:
        assert asyncio.run(flood()) == 10
    finally:
        known.close()
