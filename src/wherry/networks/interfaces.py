"""Options of an endpoint: its interface's name and settings.  Source: Docker's bridge driver, `com.docker.network.endpoint.*`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

from wherry.errors import Internal
from wherry.netlink.link import NAME_MAX

_NAME = "com.docker.network.endpoint.ifname"
_SETTINGS = "com.docker.network.endpoint.sysctls"
_WORD = "[A-Za-z0-9_-]+"
_SETTING = re.compile(rf"net\.(ipv4|ipv6|mpls)\.({_WORD})\.(?i:IFNAME)\.({_WORD})(?:=(.*))?")  # the command line writes it small
_LOOPBACK = "lo"


def problems(options: Mapping[str, str] | None) -> list[str]:
    """What can be refused before an interface is there, in Docker's words; options that Docker does not know either mean nothing."""
    return [
        f"unrecognised network interface sysctl '{one}'; represent 'net.X.Y.ethN.Z=V' as 'net.X.Y.IFNAME.Z=V', "
        "'X' must be 'ipv4', 'ipv6' or 'mpls'"
        for one in _written(options or {})
        if not _SETTING.fullmatch(one)
    ]


def name(options: Mapping[str, str] | None, taken: Sequence[str], *, port: str) -> str:
    """What the interface is called in a container that has those ``taken``: as asked, or the first free of eth0, eth1 and so on.

    ``port``: the host's end. Raises Internal for a name that the kernel would not take.
    """
    held = {_LOOPBACK, *taken}
    asked = (options or {}).get(_NAME, "") or "eth%d"
    numbered = (asked.replace("%d", str(number), 1) for number in range(len(held) + 1))
    found = next(one for one in numbered if one not in held or one == asked)
    reason = _fault(found) or ("file exists" if found in held else "")
    if reason:
        raise Internal(f'failed to add interface {port} to sandbox: error renaming interface "{port}" to "{found}": {reason}')
    return found


def apply(options: Mapping[str, str], interface: str, *, port: str) -> None:
    """Write an interface's settings in the network namespace of the calling thread.  Raises Internal."""
    failed = f"failed to add interface {port} to sandbox: "
    for one in _written(options):
        match = _SETTING.fullmatch(one)
        if match is None or match[4] is None:
            raise Internal(f"{failed}expected sysctl '{one}' to have format name=value")
        path = f"/proc/sys/net/{match[1]}/{match[2]}/{interface}/{match[3]}"
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            raise Internal(f"{failed}{path} is not a sysctl file") from None
        try:
            os.write(fd, match[4].encode())
        except OSError as error:
            raise Internal(f"{failed}unable to write to '{path}': write {path}: {os.strerror(error.errno or 0).lower()}") from None
        finally:
            os.close(fd)


def has_settings(options: Mapping[str, str]) -> bool:
    """Whether `apply` has anything to do."""
    return _SETTINGS in options


def _written(options: Mapping[str, str]) -> list[str]:
    return options[_SETTINGS].split(",") if _SETTINGS in options else []


def _fault(name: str) -> str:
    if len(name.encode()) > NAME_MAX:
        return "numerical result out of range"
    if name in (".", "..") or any(one.isspace() or one in "/:%\0" for one in name):
        return "invalid argument"
    return ""
