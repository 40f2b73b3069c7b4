"""Who may use a registry: a password file in the form of htpasswd, with scrypt hashes, or bcrypt where that library is installed.

A line is ``name:hash``; ``hash_password`` makes one (``$scrypt$ln=15,r=8,p=1$salt$hash``). The file is read again when it changes.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import importlib
import re
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from wherry.registry.reread import Reread

_SCRYPT = re.compile(r"\$scrypt\$ln=(\d{1,2}),r=(\d{1,2}),p=(\d{1,2})\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)")
_BCRYPT = re.compile(r"\$2[aby]\$\d\d\$[./A-Za-z0-9]{53}")
_MEMORY = 256 << 20
_REMEMBERED_S = 300.0
_REMEMBERED = 1000
_LONGEST = 1024
_CHECKS = 2
_MOST_WAITING = 64
_MOST_COST = 20
_KEY_BYTES = 32


class BadPasswordFile(ValueError):
    """The file can't be used; the message names the line."""


class Crowded(Exception):
    """Too many passwords wait to be checked."""


class Accounts:
    """Checking a password takes tens of milliseconds, by design; one that was right is remembered for minutes.  ``close`` it."""

    def __init__(self, path: str) -> None:
        """Raises OSError, BadPasswordFile."""
        self._hashes = Reread(path, parse)
        self._key = secrets.token_bytes(32)
        self._right: dict[bytes, float] = {}
        self._waiting = 0
        self._slow = ThreadPoolExecutor(_CHECKS, "password")  # a flood of wrong passwords keeps no other thread busy

    def close(self) -> None:
        self._slow.shutdown(wait=False, cancel_futures=True)

    async def user(self, authorization: str | None) -> str | None:
        """Who it is, when the value of an ``Authorization`` header is Basic with a known name and its password.  Raises Crowded."""
        pair = _basic(authorization)
        if pair is None:
            return None
        hashes = self._hashes.value()
        name, password = pair
        stored = hashes.get(name)
        proof = hmac.digest(self._key, f"{name}\0{stored}\0{password}".encode(), "sha256")
        if self._right.get(proof, 0.0) > time.monotonic():
            return name
        if self._waiting >= _MOST_WAITING:
            raise Crowded
        self._waiting += 1
        try:  # an unknown name takes as long as a wrong password
            loop = asyncio.get_running_loop()
            decoy = next(iter(hashes.values()), _NOBODY)
            right = await loop.run_in_executor(self._slow, verify, password, stored or decoy) and stored is not None
        finally:
            self._waiting -= 1
        if not right:
            return None
        if len(self._right) >= _REMEMBERED:
            self._right.clear()
        self._right[proof] = time.monotonic() + _REMEMBERED_S
        return name


def parse(text: str) -> dict[str, str]:
    """Name -> hash.  Raises BadPasswordFile."""
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, hashed = line.strip().partition(":")
        if not colon or not name:
            raise BadPasswordFile(f"line {number} is not name:hash")
        if _BCRYPT.fullmatch(hashed):
            if _bcrypt() is None:
                raise BadPasswordFile(f"line {number}: a bcrypt hash needs the package bcrypt (pip install 'wherry[htpasswd]')")
        elif not _is_affordable_scrypt(hashed):
            raise BadPasswordFile(f"line {number}: not a scrypt or bcrypt hash (make one with 'wherry registry passwd')")
        found[name] = hashed
    return found


def _is_affordable_scrypt(hashed: str) -> bool:
    made = _SCRYPT.fullmatch(hashed)
    if made is None or len(made[4]) % 4 == 1 or len(made[5]) != len(_b64(bytes(_KEY_BYTES))):
        return False
    cost, width, lanes = (int(made[number]) for number in (1, 2, 3))
    return 0 < cost <= _MOST_COST and 0 < width and 0 < lanes <= 16 and (128 * width << cost) < _MEMORY


def hash_password(password: str, *, cost: int = 15) -> str:
    """A line's second half.  ``cost``: 2**cost rounds of memory."""
    salt = secrets.token_bytes(16)
    made = _scrypt(password, salt, cost, 8, 1)
    return f"$scrypt$ln={cost},r=8,p=1${_b64(salt)}${_b64(made)}"


def verify(password: str, hashed: str) -> bool:
    """Whether ``hashed`` was made of ``password``."""
    if len(password.encode()) > _LONGEST:
        return False
    found = _SCRYPT.fullmatch(hashed)
    if found is not None:
        cost, width, lanes = (int(found[number]) for number in (1, 2, 3))
        return hmac.compare_digest(_scrypt(password, _unb64(found[4]), cost, width, lanes), _unb64(found[5]))
    bcrypt = _bcrypt()
    return bcrypt is not None and bool(bcrypt.checkpw(password.encode()[:72], hashed.encode()))


def _scrypt(password: str, salt: bytes, cost: int, width: int, lanes: int) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=1 << cost, r=width, p=lanes, maxmem=_MEMORY, dklen=_KEY_BYTES)


def _basic(authorization: str | None) -> tuple[str, str] | None:
    scheme, _, coded = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, colon, password = base64.b64decode(coded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return (name, password) if colon else None


def _bcrypt() -> Any:
    try:
        return importlib.import_module("bcrypt")
    except ImportError:
        return None


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def _unb64(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4))


_NOBODY = f"$scrypt$ln=15,r=8,p=1${_b64(bytes(16))}${_b64(bytes(_KEY_BYTES))}"
