"""``-v``, ``--mount``, ``--tmpfs``: from words to what the API takes.  Docker's rules and texts."""

from __future__ import annotations

import os

from wherry.cli.flags import parse_bool, parse_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

RECURSIVE = {
    "enabled": (),
    "disabled": ("NonRecursive",),
    "writable": ("ReadOnlyNonRecursive",),
    "readonly": ("ReadOnlyForceRecursive",),
}


def split_fields(text: str) -> list[str]:
    """One line of CSV: fields by comma, quoted where they begin with a quote.  Raises ValueError."""
    fields, position = [], 0
    while True:
        if text.startswith('"', position):
            field, position = _quoted(text, position + 1)
        else:
            end = text.find(",", position)
            end = len(text) if end < 0 else end
            field, position = text[position:end], end
            if '"' in field:
                raise ValueError(f'parse error on line 1, column {text.index(chr(34)) + 1}: bare " in non-quoted field')
        fields.append(field)
        if position >= len(text):
            return fields
        position += 1


def _quoted(text: str, position: int) -> tuple[str, int]:
    pieces = []
    while (end := text.find('"', position)) >= 0:
        pieces.append(text[position:end])
        if text.startswith('""', end):
            pieces.append('"')
            position = end + 2
        elif end + 1 == len(text) or text[end + 1] == ",":
            return "".join(pieces), end + 1
        else:
            break
    raise ValueError(f'parse error on line 1, column {len(text) + 1}: extraneous or missing " in quoted-field')


def volume(word: str) -> tuple[str, str]:
    """One ``-v``: (bind as the API takes it, "") or ("", path of an anonymous volume).  Raises ValueError."""
    if not word:
        raise ValueError("invalid empty volume spec")
    parts = word.split(":")
    if len(parts) > 3:
        raise ValueError(f"invalid spec: {word}: too many colons")
    if not all(parts):
        raise ValueError(f"invalid spec: {word}: empty section between colons")
    if len(parts) == 1:
        return "", word
    if parts[0].startswith("."):
        parts[0] = os.path.abspath(parts[0])
    return ":".join(parts), ""


def tmpfs(word: str) -> tuple[str, str]:
    """``PATH[:OPTIONS]``."""
    path, _, options = word.partition(":")
    return path, options


def mount(word: str) -> dict[str, Any]:
    """One ``--mount`` as an API Mount.  Raises ValueError."""
    made: dict[str, Any] = {"Type": "volume"}
    bind: dict[str, Any] = {}
    volumes: dict[str, Any] = {}
    memory: dict[str, Any] = {}
    image: dict[str, Any] = {}
    if not word:
        raise ValueError("EOF")
    for field in split_fields(word):
        key, value = _key_value(field)
        if key == "type":
            if not value:
                raise ValueError("type is required")
            made["Type"] = value.lower()
        elif key in ("source", "src"):
            made["Source"] = os.path.abspath(value) if value == "." or value.startswith("./") else value
        elif key in ("target", "dst", "destination"):
            made["Target"] = value
        elif key in ("readonly", "ro"):
            made["ReadOnly"] = _boolean(key, value)
        elif key == "consistency":
            made["Consistency"] = value.lower()
        elif key.startswith("bind-"):
            _bind_option(bind, key, value)
        elif key.startswith("volume-"):
            _volume_option(volumes, key, value, field)
        elif key.startswith("tmpfs-"):
            _tmpfs_option(memory, key, value)
        elif key == "image-subpath":
            image["Subpath"] = value
        else:
            raise ValueError(f"unexpected key '{key}' in '{field}'")
    for name, options, kind in (
        ("Bind", bind, "bind"),
        ("Volume", volumes, "volume"),
        ("Image", image, "image"),
        ("Tmpfs", memory, "tmpfs"),
    ):
        if options and made["Type"] != kind:
            raise ValueError(f"cannot mix '{kind}-*' options with mount type '{made['Type']}'")
        if options:
            made[f"{name}Options"] = options
    _check(made, bind)
    return made


def _key_value(field: str) -> tuple[str, str]:
    key, equals, value = field.partition("=")
    key = key.lower()
    if not equals:
        if key not in ("readonly", "ro", "volume-nocopy", "bind-nonrecursive", "bind-create-src"):
            raise ValueError(f"invalid field '{field}' must be a key=value pair")
        value = "true"
    return key, value


def _boolean(key: str, value: str) -> bool:
    try:
        return parse_bool(value)
    except ValueError:
        raise ValueError(f"invalid value for {key}: {value}") from None


def _bind_option(bind: dict[str, Any], key: str, value: str) -> None:
    if key == "bind-propagation":
        bind["Propagation"] = value.lower()
    elif key == "bind-nonrecursive":
        bind["NonRecursive"] = _boolean(key, value)
    elif key == "bind-create-src":
        bind["CreateMountpoint"] = _boolean(key, value)
    elif key == "bind-recursive":
        if value not in RECURSIVE:
            raise ValueError(f'invalid value for {key}: {value} (must be "enabled", "disabled", "writable", or "readonly")')
        for name in RECURSIVE[value]:
            bind[name] = True
    else:
        raise ValueError(f"unknown option '{key}'")


def _volume_option(volumes: dict[str, Any], key: str, value: str, field: str) -> None:
    if key == "volume-nocopy":
        volumes["NoCopy"] = _boolean(key, value)
    elif key == "volume-subpath":
        volumes["Subpath"] = value
    elif key == "volume-driver":
        volumes.setdefault("DriverConfig", {})["Name"] = value
    elif key in ("volume-label", "volume-opt"):
        name, _, setting = value.partition("=")
        if not name:
            raise ValueError(f"invalid value for '{key}' in '{field}': empty name")
        target = (
            volumes.setdefault("Labels", {}) if key == "volume-label" else volumes.setdefault("DriverConfig", {}).setdefault("Options", {})
        )
        target[name] = setting
    else:
        raise ValueError(f"unknown option '{key}' in '{field}'")


def _tmpfs_option(memory: dict[str, Any], key: str, value: str) -> None:
    try:
        if key == "tmpfs-size":
            memory["SizeBytes"] = parse_bytes(value)
        elif key == "tmpfs-mode":
            memory["Mode"] = int(value, 8)
        elif key == "tmpfs-options":
            memory["Options"] = [option.split("=", 1) for option in value.split(",")]
        else:
            raise KeyError(key)
    except ValueError:
        raise ValueError(f"invalid value for {key}: {value}") from None
    except KeyError:
        raise ValueError(f"unknown option '{key}'") from None


def _check(made: dict[str, Any], bind: dict[str, Any]) -> None:
    if bind.get("ReadOnlyNonRecursive") and not made.get("ReadOnly"):
        raise ValueError("option 'bind-recursive=writable' requires 'readonly' to be specified in conjunction")
    if bind.get("ReadOnlyForceRecursive"):
        if not made.get("ReadOnly"):
            raise ValueError("option 'bind-recursive=readonly' requires 'readonly' to be specified in conjunction")
        if bind.get("Propagation") != "rprivate":
            raise ValueError("option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' to be specified in conjunction")
    if not made.get("Target"):
        raise ValueError("target is required")
