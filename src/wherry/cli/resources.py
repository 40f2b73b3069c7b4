"""Limits and devices: ``--ulimit``, ``--device``, ``--device-read-bps`` and their like.  Docker's rules and texts."""

from __future__ import annotations

from wherry.cli.flags import parse_bytes, parse_int

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SYSCTLS = frozenset(
    "kernel.msgmax kernel.msgmnb kernel.msgmni kernel.sem kernel.shmall kernel.shmmax kernel.shmmni kernel.shm_rmid_forced".split()
)
ULIMITS = frozenset("core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack".split())


def ulimit(word: str) -> dict[str, Any]:
    """``NAME=SOFT[:HARD]``.  Raises ValueError."""
    name, equals, text = word.partition("=")
    if not equals:
        raise ValueError(f"invalid ulimit argument: {word}")
    if name not in ULIMITS:
        raise ValueError(f"invalid ulimit type: {name}")
    values = text.split(":")
    if len(values) > 2:
        raise ValueError(f"too many limit value arguments - {text}, can only have up to two, `soft[:hard]`")
    soft = parse_int(values[0])
    hard = parse_int(values[1]) if len(values) == 2 else soft
    if hard != -1 and (soft > hard or soft == -1):
        raise ValueError(f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}")
    return {"Name": name, "Hard": hard, "Soft": soft}


def is_device_mode(text: str) -> bool:
    return bool(text) and len(set(text)) == len(text) and set(text) <= set("rwm")


def is_cdi_name(word: str) -> bool:
    """``vendor.com/class=name``."""
    kind, equals, name = word.partition("=")
    vendor, slash, group = kind.partition("/")
    return bool(equals and name and slash and vendor and group) and not word.startswith("/")


def device(word: str) -> str:
    """Check one ``--device`` word.  Raises ValueError."""
    if is_cdi_name(word):
        return word
    parts = word.split(":")
    if len(parts) > 3 or not parts[0]:
        raise ValueError(f"bad format for path: {word}")
    if len(parts) == 3 and not is_device_mode(parts[2]):
        raise ValueError(f"bad mode specified: {parts[2]}")
    inside = parts[1] if len(parts) > 1 and not (len(parts) == 2 and is_device_mode(parts[1])) else parts[0]
    if not inside.startswith("/"):
        raise ValueError(f"{inside} is not an absolute path")
    return word


def device_mapping(word: str) -> dict[str, str]:
    parts = word.split(":")
    source, inside, mode = parts[0], "", "rwm"
    if len(parts) == 3:
        mode = parts[2]
    if len(parts) > 1:
        if is_device_mode(parts[1]):
            mode = parts[1]
        else:
            inside = parts[1]
    return {"PathOnHost": source, "PathInContainer": inside or source, "CgroupPermissions": mode}


def device_rule(word: str) -> str:
    """``c 42:* rmw``.  Raises ValueError."""
    words = word.split(" ")
    numbers = words[1].split(":") if len(words) == 3 else []
    good = len(numbers) == 2 and words[0] in ("a", "b", "c") and all(number == "*" or number.isdecimal() for number in numbers)
    if not good or not 1 <= len(words[2]) <= 3 or not set(words[2]) <= set("rwm"):
        raise ValueError(f"invalid device cgroup format '{word}'")
    return word


def sysctl(word: str) -> str:
    """``KEY=VALUE`` of a setting that a namespace has.  Raises ValueError."""
    name = word.partition("=")[0]
    if "=" not in word or not (name in SYSCTLS or name.startswith(("net.", "fs.mqueue."))):
        raise ValueError(f"sysctl '{word}' is not allowed")
    return word


def storage_options(words: list[str]) -> dict[str, str]:
    if not all("=" in word for word in words):
        raise ValueError("invalid storage option")
    return dict(word.partition("=")[::2] for word in words)


def weight_device(word: str) -> dict[str, Any]:
    path, value = _device_and_value(word)
    if not value.isdecimal() or (int(value) != 0 and not 10 <= int(value) <= 1000):
        raise ValueError(f"invalid weight for device: {word}")
    return {"Path": path, "Weight": int(value)}


def byte_rate(word: str) -> dict[str, Any]:
    path, value = _device_and_value(word)
    try:
        rate = parse_bytes(value)
    except ValueError:
        raise ValueError(
            f"invalid rate for device: {word}. The correct format is <device-path>:<number>[<unit>]. "
            "Number must be a positive integer. Unit is optional and can be kb, mb, or gb"
        ) from None
    return {"Path": path, "Rate": rate}


def operation_rate(word: str) -> dict[str, Any]:
    path, value = _device_and_value(word)
    if not value.isdecimal():
        raise ValueError(
            f"invalid rate for device: {word}. The correct format is <device-path>:<number>. Number must be a positive integer"
        )
    return {"Path": path, "Rate": int(value)}


def _device_and_value(word: str) -> tuple[str, str]:
    path, colon, value = word.partition(":")
    if not colon or not value:
        raise ValueError(f"bad format: {word}")
    if not path.startswith("/dev/"):
        raise ValueError(f"bad format for device path: {word}")
    return path, value


def gpus(word: str) -> dict[str, Any]:
    """``all``, a number, or ``driver=..,count=..,"device=a,b",capabilities=..,options=..`` as a DeviceRequest."""
    from wherry.cli.mounts import split_fields

    if not word:
        raise ValueError("EOF")
    request: dict[str, Any] = {"Driver": "", "Count": 0, "DeviceIDs": None, "Capabilities": [["gpu"]], "Options": {}}
    for field in split_fields(word):
        key, equals, value = field.partition("=")
        if not equals:
            key, value = "count", field
        if key == "count":
            request["Count"] = -1 if value == "all" else _count(value)
        elif key == "device":
            request["DeviceIDs"] = value.split(",")
        elif key == "driver":
            request["Driver"] = value
        elif key == "capabilities":
            request["Capabilities"] = [[*value.split(","), *([] if "gpu" in value.split(",") else ["gpu"])]]
        elif key == "options":
            request["Options"] = dict(option.partition("=")[::2] for option in value.split(","))
        else:
            raise ValueError(f"unexpected key '{key}' in '{field}'")
    if not request["Count"] and request["DeviceIDs"] is None:
        request["Count"] = 1
    return request


def _count(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f'invalid count ({text}): value must be either "all" or an integer: invalid syntax')
    return int(text)


def restart_policy(text: str) -> dict[str, Any]:
    """``no``, ``always``, ``unless-stopped``, ``on-failure[:N]``; the daemon judges the name.  Raises ValueError."""
    name, colon, count = text.partition(":")
    if colon and not name:
        raise ValueError("invalid restart policy format: no policy provided before colon")
    if count and not count.lstrip("-").isdecimal():
        raise ValueError("invalid restart policy format: maximum retry count must be an integer")
    return {"Name": name, "MaximumRetryCount": int(count or 0)}
