"""``state``, ``list``, ``features``, ``spec`` and the version."""

from __future__ import annotations

import json
import os
from importlib import metadata
from typing import Any

from wherry.bundle import bundles, hooks, states
from wherry.bundle.failures import Failure
from wherry.bundle.states import OCI_VERSION, Place
from wherry.kernel import cgroup, credentials
from wherry.runtime import defaults, filters, labels, options, plan

_FILE_SYSTEM_OPTIONS = ("dirsync", "lazytime", "mand", "nolazytime", "nomand", "sync", "tmpcopyup", "bind", "rbind", "idmap", "ridmap")


def state(root: str, ident: str) -> str:
    """The OCI state object, with what runc adds to it."""
    return json.dumps(_describe(states.found(root, ident), cgroup.find()), indent=2)


def listing(root: str, form: str, *, quiet: bool) -> str:
    """All containers."""
    found = cgroup.find()
    rows = []
    for place in states.every(root):
        try:
            rows.append(_describe(place, found))
        except Failure:
            continue  # its create is at work, or it was deleted just now
    if quiet:
        return "\n".join(row["id"] for row in rows)
    if form == "json":
        return json.dumps(rows or None)
    if form != "table":
        raise Failure(f"invalid format option: {form}")
    names = ("id", "pid", "status", "bundle", "created", "owner")
    table = [[name.upper() for name in names], *([str(row[name]) for name in names] for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(names))]
    return "\n".join("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table)


def version() -> str:
    try:
        own = metadata.version("wherry")
    except metadata.PackageNotFoundError:
        own = "unknown"
    return f"wherry-runtime version {own}\nspec: {OCI_VERSION}"


def features() -> str:
    """Source: OCI runtime-spec 1.2, features.md and features-linux.md."""
    seccomp = {
        "enabled": True,
        "actions": sorted(filters.ACTIONS),
        "operators": sorted(filters.OPERATORS),
        "archs": sorted(filters.ARCHITECTURES),
        "knownFlags": [*bundles.SECCOMP_FLAGS, "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
        "supportedFlags": list(bundles.SECCOMP_FLAGS),
    }
    found = {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": OCI_VERSION,
        "hooks": list(hooks.KINDS),
        "mountOptions": sorted({*options.names(), *_FILE_SYSTEM_OPTIONS}),
        "linux": {
            "namespaces": sorted(plan.NAMESPACES),
            "capabilities": list(credentials.NAMES),
            "cgroup": {"v1": True, "v2": True, "systemd": False, "systemdUser": False, "rdma": True},
            "seccomp": seccomp,
            "apparmor": {"enabled": labels.has_apparmor()},
            "selinux": {"enabled": labels.has_selinux()},
            "intelRdt": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": True}},
        },
    }
    return json.dumps(found, indent=4)


def write_spec(directory: str, *, rootless: bool) -> None:
    """A config.json that runs a shell.  Raises Failure when there is one already."""
    path = f"{directory or '.'}/config.json"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        raise Failure("file config.json exists: remove it first") from None
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}") from None
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        json.dump(template(rootless=rootless), file, indent="\t")


def template(*, rootless: bool) -> dict[str, Any]:
    """The config that `write_spec` writes."""
    kept = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
    config: dict[str, Any] = {
        "ociVersion": OCI_VERSION,
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": [defaults.PATH, "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": kept, "effective": kept, "permitted": kept},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "wherry",
        "mounts": defaults.mounts(),
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
            "maskedPaths": list(defaults.MASKED_PATHS),
            "readonlyPaths": list(defaults.READONLY_PATHS),
        },
    }
    if rootless:
        linux = config["linux"]
        linux["namespaces"].append({"type": "user"})
        linux["uidMappings"] = [{"containerID": 0, "hostID": os.geteuid(), "size": 1}]
        linux["gidMappings"] = [{"containerID": 0, "hostID": os.getegid(), "size": 1}]
        linux.pop("resources")
        config["mounts"] = [_unprivileged(one) for one in config["mounts"]]
    return config


def _unprivileged(entry: dict[str, Any]) -> dict[str, Any]:
    """Without the group of terminals, which the user namespace does not map."""
    return {**entry, "options": [one for one in entry["options"] if not one.startswith("gid=")]}


def _describe(place: Place, found: cgroup.Hierarchies) -> dict[str, Any]:
    current = place.state()
    status = "creating" if states.is_being_created(place, current) else states.status(place, current, found)
    document = states.document(current, status)
    more = {"rootfs": current.rootfs, "created": current.created, "owner": current.owner}
    annotations = document.pop("annotations", None)
    return {**document, **more, **({"annotations": annotations} if annotations else {})}
