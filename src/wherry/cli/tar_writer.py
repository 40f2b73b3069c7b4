"""A tree of this machine as a tar stream, owners and modes as they are, under a name of the caller's choice: what ``cp`` sends."""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 512
PIECE = 1 << 18
MAX_OCTAL = 1 << 33
MAX_ID = 1 << 21


def pack(path: str, name: str) -> Iterator[bytes]:
    """``path`` and what is below it; its own entry is called ``name`` (``.`` for the content alone).  Raises OSError.

    Symbolic links stay links, further names of an inode become hard links, sockets are left out.
    """
    buffer = bytearray()
    seen: dict[tuple[int, int], str] = {}
    pending = [(path, name)]
    while pending:
        source, inside = pending.pop()
        facts = os.lstat(source)
        if stat.S_ISDIR(facts.st_mode):
            buffer += header(inside.rstrip("/") + "/", facts, b"5")
            with os.scandir(source) as entries:
                names = sorted((entry.name for entry in entries), reverse=True)
            prefix = "" if inside == "." else inside.rstrip("/") + "/"
            pending += [(f"{source.rstrip('/')}/{child}", prefix + child) for child in names]
        elif stat.S_ISLNK(facts.st_mode):
            buffer += header(inside, facts, b"2", target=os.readlink(source))
        elif stat.S_ISREG(facts.st_mode):
            first = seen.setdefault((facts.st_dev, facts.st_ino), inside) if facts.st_nlink > 1 else inside
            if first != inside:
                buffer += header(inside, facts, b"1", target=first)
            else:
                yield from _file(source, inside, facts, buffer)
        elif kind := _SPECIAL.get(stat.S_IFMT(facts.st_mode)):
            buffer += header(inside, facts, kind)
        if len(buffer) >= PIECE:
            yield bytes(buffer)
            buffer.clear()
    buffer += bytes(2 * BLOCK)
    yield bytes(buffer)


_SPECIAL = {stat.S_IFIFO: b"6", stat.S_IFCHR: b"3", stat.S_IFBLK: b"4"}


def _file(source: str, inside: str, facts: os.stat_result, buffer: bytearray) -> Iterator[bytes]:
    """A file's header and content: small ones gather in ``buffer``.  One that shrinks meanwhile is filled up with zeros."""
    descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        left = facts.st_size
        buffer += header(inside, facts, b"0", length=left)
        while left:
            piece = os.read(descriptor, min(left, PIECE))
            if not piece:
                buffer += bytes(left)
                break
            left -= len(piece)
            if len(piece) < PIECE:
                buffer += piece
                continue
            yield bytes(buffer)
            buffer.clear()
            yield piece
    finally:
        os.close(descriptor)
    buffer += bytes(-facts.st_size % BLOCK)


def header(name: str, facts: os.stat_result, kind: bytes, *, length: int = 0, target: str = "") -> bytes:
    """A ustar header, after a PAX one for what does not fit."""
    raw, link = os.fsencode(name), os.fsencode(target)
    seconds = int(facts.st_mtime)
    records = [
        (key, value)
        for key, value, fits in (
            ("path", raw, len(raw) <= 100 and name.isascii()),
            ("linkpath", link, len(link) <= 100 and target.isascii()),
            ("size", b"%d" % length, length < MAX_OCTAL),
            ("uid", b"%d" % facts.st_uid, facts.st_uid < MAX_ID),
            ("gid", b"%d" % facts.st_gid, facts.st_gid < MAX_ID),
            ("mtime", b"%d" % seconds, 0 <= seconds < MAX_OCTAL),
        )
        if not fits
    ]
    device = facts.st_rdev if kind in (b"3", b"4") else 0
    plain = _ustar(raw, stat.S_IMODE(facts.st_mode), facts.st_uid, facts.st_gid, length, seconds, kind, link, device)
    if not records:
        return plain
    body = b"".join(_record(key, value) for key, value in records)
    return _ustar(b"PaxHeaders.0/" + raw[-80:], 0o644, 0, 0, len(body), 0, b"x", b"", 0) + body + bytes(-len(body) % BLOCK) + plain


def _ustar(name: bytes, mode: int, uid: int, gid: int, length: int, seconds: int, kind: bytes, link: bytes, device: int) -> bytes:
    block = b"%-100b%07o\0%07o\0%07o\0%011o\0%011o\0        %b%-100bustar\00000%64b%07o\0%07o\0%167b" % (
        name[:100].ljust(100, b"\0"),
        mode,
        uid if uid < MAX_ID else 0,
        gid if gid < MAX_ID else 0,
        min(length, MAX_OCTAL - 1),
        min(max(seconds, 0), MAX_OCTAL - 1),
        kind,
        link[:100].ljust(100, b"\0"),
        bytes(64),
        os.major(device),
        os.minor(device),
        bytes(167),
    )
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _record(key: str, value: bytes) -> bytes:
    """``LENGTH KEY=VALUE\\n``, where the length counts itself."""
    body = b" %b=%b\n" % (key.encode(), value)
    length = len(body) + 1
    while len(body) + len(str(length)) != length:
        length = len(body) + len(str(length))
    return b"%d%b" % (length, body)
