"""The daemon's configuration file: what its keys mean as flags of the command line.  Source: Docker's daemon.json; dockerd(8)."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

DEFAULT_PATH = "/etc/wherry/daemon.json"


@dataclass(frozen=True, slots=True)
class Key:
    """One key: its flag, and how its value becomes the flag's words, one for each time it is given; an empty word for a switch."""

    flag: str
    words: Callable[[Any], list[str]]


def arguments(document: bytes, given: Collection[str]) -> list[str]:
    """The command line that a file stands for; ``given``: the flags of the real one.  Raises ValueError in Docker's words."""
    try:
        data = json.loads(document or b"{}")
    except ValueError as error:
        raise ValueError(f"invalid JSON: {error}") from None
    if not isinstance(data, dict):
        raise ValueError("invalid JSON: it is not an object")
    if isinstance(data.get("proxies"), dict):  # a group of keys, which may as well stand alone
        data |= data.pop("proxies")
    unknown = sorted(key for key in data if key not in KEYS)
    if unknown:
        raise ValueError(f"the following directives don't match any configuration option: {', '.join(unknown)}")
    twice = sorted(key for key in data if KEYS[key].flag in given)
    if twice:
        raise ValueError(f"the following directives are specified both as a flag and in the configuration file: {', '.join(twice)}")
    found: list[str] = []
    for name, value in data.items():
        key = KEYS[name]
        try:
            found += [f"{key.flag}={word}" if word else key.flag for word in key.words(value)]
        except (TypeError, KeyError, AttributeError, ValueError):
            raise ValueError(f"invalid value for {name}: {json.dumps(value)}") from None
    return found


def _text(value: Any) -> list[str]:
    if not isinstance(value, str) or not value:
        raise TypeError(value)
    return [value]


def _number(value: Any) -> list[str]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(value)
    return [str(value)]


def _switch(value: Any) -> list[str]:
    if not isinstance(value, bool):
        raise TypeError(value)
    return [""] if value else []


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise TypeError(value)
    return [word for one in value for word in _text(one)]


def _pairs(value: Any) -> list[str]:
    return [f"{name}={word}" for name, one in value.items() for word in _text(one)]


def _pools(value: Any) -> list[str]:
    return [f"base={one['base']},size={one['size']}" for one in value]


def _runtimes(value: Any) -> list[str]:
    found = []
    for name, one in value.items():
        if set(one) - {"path", "runtimeArgs"}:
            raise ValueError(one)
        found.append("=".join([*_text(name), shlex.join([*_text(one["path"]), *_texts(one.get("runtimeArgs") or [])])]))
    return found


KEYS = {
    "runtimes": Key("--add-runtime", _runtimes),
    "default-runtime": Key("--default-runtime", _text),
    "init-path": Key("--init-path", _text),
    "data-root": Key("--data-root", _text),
    "exec-root": Key("--run-root", _text),
    "hosts": Key("--host", _texts),
    "storage-driver": Key("--snapshotter", _text),
    "insecure-registries": Key("--insecure-registry", _texts),
    "registry-mirrors": Key("--registry-mirror", _texts),
    "registry-token-servers": Key("--registry-token-server", _texts),
    "registry-cert-dirs": Key("--registry-cert-dir", _texts),
    "http-proxy": Key("--http-proxy", _text),
    "https-proxy": Key("--https-proxy", _text),
    "no-proxy": Key("--no-proxy", _text),
    "registry-connect-timeout": Key("--registry-connect-timeout", _number),
    "registry-idle-timeout": Key("--registry-idle-timeout", _number),
    "max-download-attempts": Key("--max-download-attempts", _number),
    "max-concurrent-downloads": Key("--max-concurrent-downloads", _number),
    "max-concurrent-uploads": Key("--max-concurrent-uploads", _number),
    "log-opts": Key("--log-opt", _pairs),
    "default-address-pools": Key("--default-address-pool", _pools),
    "ip": Key("--ip", _text),
    "debug": Key("--debug", _switch),
    "no-new-privileges": Key("--no-new-privileges", _switch),
    "self-test": Key("--self-test", _text),
    "seccomp-profile": Key("--seccomp-profile", _text),
    "security-profile": Key("--security-profile", _text),
}
