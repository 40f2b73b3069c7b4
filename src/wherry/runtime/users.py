"""Who ``user[:group]`` is, by a container's own passwd and group files, read without trusting them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from wherry.kernel import files
from wherry.runtime.failure import StartFailure

_FILE_LIMIT_BYTES = 1 << 20
_LINE_LIMIT = 4096
_HIGHEST_ID = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """``groups`` are the supplementary ones, the primary among them."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def resolve(passwd: bytes, group: bytes, user: str, extra_groups: Sequence[str] = ()) -> Identity:
    """Resolve as Docker does: a name must exist, an all-digit word is never looked up as a name, an unknown uid has gid 0, home "/".

    Raises StartFailure with Docker's words.
    """
    name, colon, group_name = user.partition(":")
    uid, gid, home, login = 0, 0, "/", ""
    wanted = _identifier(name) if name else 0
    for row in _rows(passwd, 7):
        number = _small(row[2])
        if number is None or _small(row[3]) is None or not (row[0] == name if wanted is None else number == wanted):
            continue
        uid, gid, home, login = number, int(row[3]), row[5] or "/", row[0]
        break
    else:
        if wanted is None:
            raise StartFailure(128, f"unable to find user {name}: no matching entries in passwd file", complete=True)
        uid = wanted
    groups = list(_memberships(group, login))
    if colon and group_name:
        gid = _group(group, group_name)
        groups = []
    groups += [_group(group, one) for one in extra_groups]
    return Identity(uid=uid, gid=gid, groups=tuple(dict.fromkeys([gid, *groups])), home=home)


def check_range(*ids: int) -> None:
    """Raises StartFailure for what is no id, or is the kernel's word for leaving it as it is."""
    if not all(0 <= one <= _HIGHEST_ID for one in ids):
        raise StartFailure(128, f"uids and gids must be in range 0-{_HIGHEST_ID}", complete=True)


def home(root_fd: int, uid: int) -> str:
    """The home directory of a user of a root."""
    return resolve(_read(root_fd, "/etc/passwd"), b"", str(uid)).home


def read(root_fd: int) -> tuple[bytes, bytes]:
    """The passwd and group files of a root; one that is missing, not a regular file or too big counts as empty."""
    return _read(root_fd, "/etc/passwd"), _read(root_fd, "/etc/group")


def _read(root_fd: int, path: str) -> bytes:
    try:
        return files.read_small_file(root_fd, path, _FILE_LIMIT_BYTES)
    except OSError:
        return b""


def _identifier(word: str) -> int | None:
    """The number, or None when the word is a name.  Anything that looks like a number but is out of range is an error."""
    if not (word.lstrip("+-").isdigit() and word.isascii()):
        return None
    check_range(number := int(word) if word.isdigit() else -1)
    return number


def _group(group: bytes, word: str) -> int:
    wanted = _identifier(word)
    for row in _rows(group, 3):
        number = _small(row[2])
        if number is not None and (row[0] == word if wanted is None else number == wanted):
            return number
    if wanted is None:
        raise StartFailure(128, f"unable to find group {word}: no matching entries in group file", complete=True)
    return wanted


def _memberships(group: bytes, login: str) -> Iterator[int]:
    for row in _rows(group, 4) if login else ():
        number = _small(row[2])
        if number is not None and login in row[3].split(","):
            yield number


def _rows(content: bytes, columns: int) -> Iterable[list[str]]:
    for line in content.split(b"\n"):
        if line and len(line) <= _LINE_LIMIT and not line.startswith(b"#"):
            row = line.decode("utf-8", "surrogateescape").strip().split(":")
            if row[0]:
                yield row + [""] * (columns - len(row))


def _small(text: str) -> int | None:
    return int(text) if text.isdigit() and text.isascii() and len(text) <= 10 and int(text) <= _HIGHEST_ID else None
