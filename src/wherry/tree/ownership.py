"""``--chown`` and ``--chmod`` of COPY and ADD: names by the image's own accounts, modes in octal or symbols."""

from __future__ import annotations

import re

from wherry.kernel import files

_ACCOUNTS_LIMIT = 16 << 20
_SHIFT = {"u": 6, "g": 3, "o": 0}


def resolve_owner(root_fd: int, owner: str) -> tuple[int, int]:
    """The ids of ``user[:group]`` by the image's passwd and group files; numbers are themselves, no user is 0.  Raises LookupError."""
    user, colon, group = owner.partition(":")
    uid, primary = _user(root_fd, user) if user else (0, 0)
    if not colon or not group:
        return uid, primary
    return uid, _group(root_fd, group)


def _user(root_fd: int, user: str) -> tuple[int, int]:
    if user.isascii() and user.isdigit():
        return _number(user), _number(user)
    for fields in _accounts(root_fd, "/etc/passwd"):
        if fields[0] == user and len(fields) >= 4 and fields[2].isdigit() and fields[3].isdigit():
            return int(fields[2]), int(fields[3])
    raise LookupError(f"unable to convert uid/gid chown string to host mapping: can't find uid for user {user}: no such user: {user}")


def _group(root_fd: int, group: str) -> int:
    if group.isascii() and group.isdigit():
        return _number(group)
    for fields in _accounts(root_fd, "/etc/group"):
        if fields[0] == group and len(fields) >= 3 and fields[2].isdigit():
            return int(fields[2])
    raise LookupError(f"unable to convert uid/gid chown string to host mapping: can't find gid for group {group}: no such group: {group}")


def _number(text: str) -> int:
    number = int(text)
    if number >= 2**31:
        raise LookupError(f"uids and gids must be in range 0-{2**31 - 1}")
    return number


def _accounts(root_fd: int, path: str) -> list[list[str]]:
    try:
        content = files.read_small_file(root_fd, path, _ACCOUNTS_LIMIT)
    except FileNotFoundError:
        return []
    return [line.split(":") for line in content.decode("utf-8", "replace").splitlines()]


def apply_mode(text: str, current: int, *, directory: bool) -> int:
    """``0644`` or ``u=rwX,go=rX`` applied to the permission bits ``current``.  Raises ValueError in BuildKit's words."""
    if re.fullmatch(r"[0-9]+", text):
        if not re.fullmatch(r"[0-7]+", text) or int(text, 8) > 0o7777:
            raise ValueError(f"invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777")
        return int(text, 8)
    mode = current
    for clause in text.split(","):
        match = re.fullmatch(r"([ugoa]*)((?:[+=-](?:[rwxXst]*|[ugo]))+)", clause)
        if match is None:
            raise ValueError("invalid syntax")
        for operator, permissions in re.findall(r"([+=-])([rwxXstugo]*)", match[2]):
            mode = _change(mode, match[1] or "a", operator, permissions, directory=directory)
    return mode


def _change(mode: int, who: str, operator: str, permissions: str, *, directory: bool) -> int:
    classes = "ugo" if "a" in who else who
    bits = mask = 0
    for one in classes:
        shift = _SHIFT[one]
        mask |= 0o7 << shift
        bits |= _class_bits(mode, permissions, directory=directory) << shift
        if "s" in permissions and one in "ug":
            bits |= 0o4000 if one == "u" else 0o2000
    if "t" in permissions and ("a" in who or "o" in who):
        bits |= 0o1000
    if operator == "+":
        return mode | bits
    return (mode & ~bits) if operator == "-" else (mode & ~mask) | bits


def _class_bits(mode: int, permissions: str, *, directory: bool) -> int:
    if permissions in _SHIFT:
        return mode >> _SHIFT[permissions] & 0o7
    bits = sum({"r": 4, "w": 2, "x": 1}.get(letter, 0) for letter in set(permissions))
    if "X" in permissions and (directory or mode & 0o111):
        bits |= 1
    return bits
