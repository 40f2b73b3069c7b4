"""The fields of tar headers and the records of PAX headers, from bytes.  Raises InvalidArchive for what is none."""

from __future__ import annotations

from functools import lru_cache
from typing import Final
from zlib import adler32

from wherry.tree.tar import BLOCK, XATTR, Entry, InvalidArchive

ZERO: Final = bytes(BLOCK)


def is_header(block: bytes) -> bool:
    """Whether these bytes are a member's header: they are 512, not all zero, and their checksum holds."""
    if len(block) != BLOCK or block == ZERO:
        return False
    try:
        return sum_matches(block)
    except InvalidArchive:
        return False


def sum_matches(header: bytes) -> bool:
    told = number(header[148:156])
    if _sum(header[:256]) + _sum(header[256:]) - _sum(header[148:156]) + 256 == told:
        return True
    signed = sum(byte - 256 if byte > 127 else byte for byte in header[:148] + header[156:])  # some old writers summed signed bytes
    return signed + 256 == told


def _sum(data: bytes) -> int:
    """Of at most 256 bytes: so few are less than Adler-32's modulus, and its lower half is their sum, many times faster than `sum`."""
    return adler32(data, 0) & 0xFFFF


def pax_records(data: bytes) -> list[tuple[str, bytes]]:
    """PAX records: ``length key=value\\n`` each; the length counts the whole record."""
    found = []
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + 20)
        length = decimal(data[position:space]) if space > 0 else 0
        end = position + length
        equals = data.find(b"=", space, end)
        if length < 5 or end > len(data) or data[end - 1] != 0x0A or equals < 0:
            raise InvalidArchive("invalid PAX record")
        key = text_of(data[space + 1 : equals])
        if "\0" in key:
            raise InvalidArchive("a PAX record with a null byte in its key")
        found.append((key, data[equals + 1 : end - 1]))
        position = end
    return found


def merge_records(entry: Entry, records: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """Set the fields that PAX records override; return the records about sparseness, without their prefix."""
    sparse = []
    for key, value in records:
        if key.startswith("GNU.sparse."):
            sparse.append((key[11:], value))
        elif key.startswith(XATTR):
            entry.xattrs[key[len(XATTR) :]] = value
        elif value:
            match key:
                case "path":
                    entry.name = text_of(value)
                case "linkpath":
                    entry.link = text_of(value)
                case "size":
                    entry.size = decimal(value)
                case "uid":
                    entry.uid = decimal(value)
                case "gid":
                    entry.gid = decimal(value)
                case "mtime":
                    entry.mtime_ns = _nanoseconds(value)
    return sparse


def name_of(header: bytes) -> str:
    name = header[:100].split(b"\0", 1)[0]
    if header[345] and header[257:263] == b"ustar\0":
        end = 476 if header[508:512] == b"tar\0" else 500  # star keeps times at the end of the prefix
        prefix = header[345:end].split(b"\0", 1)[0]
        if prefix:
            name = prefix + b"/" + name
    return text_of(name)


def number(data: bytes) -> int:
    """A header's number: octal, or base-256 with the high bit set."""
    text = data.strip(b" \0")
    if text.isdigit():  # nearly all
        return _octal(text)
    if data[0] & 0x80:
        value = int.from_bytes(data, "big")
        bits = 8 * len(data)
        return value - (1 << bits) if data[0] & 0x40 else value - (1 << (bits - 1))
    text = text.split(b"\0", 1)[0]
    if not text:
        return 0
    if not text.isdigit():
        raise InvalidArchive("invalid tar header: not a number")
    return _octal(text)


def _octal(text: bytes) -> int:
    try:
        return int(text, 8)
    except ValueError:
        raise InvalidArchive("invalid tar header: not a number") from None


same_number = lru_cache(number)  # few modes and owners, again and again


def decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 19:
        raise InvalidArchive("invalid number in a PAX record")
    return int(text)


def _nanoseconds(text: bytes) -> int:
    sign = -1 if text.startswith(b"-") else 1
    seconds, _, fraction = text.removeprefix(b"-").partition(b".")
    if fraction and not fraction.isdigit():
        raise InvalidArchive("invalid time in a PAX record")
    return sign * (decimal(seconds) * 1_000_000_000 + int((fraction[:9] or b"0").ljust(9, b"0")))


def old_segments(data: bytes) -> list[tuple[int, int]]:
    segments = []
    for start in range(0, len(data), 24):
        if data[start] == 0 and data[start + 12] == 0:
            break
        segments.append((number(data[start : start + 12]), number(data[start + 12 : start + 24])))
    return segments


def text_of(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
