"""A launch as a bundle's ``config.json`` for another OCI runtime: what Docker means and OCI cannot say is worked out here.  Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from wherry.runtime.filters import INT_ARGUMENTS
from wherry.runtime.users import Identity

INIT = "/sbin/docker-init"  # where Docker has it, too
_LOW = 0xFFFFFFFF


def configuration(message: Mapping[str, Any], who: Identity, *, netns_path: str) -> dict[str, Any]:
    """The whole ``config.json``.  ``netns_path``: the network namespace made for the container, "" where the config speaks for itself."""
    config: Mapping[str, Any] = message["config"]
    process, linux = dict(config["process"]), dict(config["linux"])
    process["user"] = {"uid": who.uid, "gid": who.gid, "additionalGids": list(who.groups)}
    if not any(item.startswith("HOME=") for item in process["env"]):
        process["env"] = [*process["env"], f"HOME={who.home}"]
    if who.uid:  # by Docker's rule a user other than root has no capability in force
        process["capabilities"] = {**process["capabilities"], "effective": [], "permitted": []}
    mounts = list(config.get("mounts") or ())
    if init := message.get("init_program"):
        process["args"] = [INIT, "--", *process["args"]]
        mounts.append({"destination": INIT, "type": "bind", "source": init, "options": ["bind", "ro"]})
    height, width = message.get("console_size") or (0, 0)
    if process.get("terminal") and height and width:
        process["consoleSize"] = {"height": height, "width": width}
    linux["namespaces"] = [one for one in linux["namespaces"] if not (netns_path and one["type"] == "network")]
    if netns_path:
        linux["namespaces"].append({"type": "network", "path": netns_path})
    if linux.get("seccomp"):
        linux["seccomp"] = portable(linux["seccomp"])
    else:
        linux.pop("seccomp", None)
    # crun before 1.9 takes nothing but 1.0, and nothing of what we write is newer
    return {
        **config,
        "ociVersion": "1.0.2",
        "process": process,
        "mounts": mounts,
        "linux": linux,
        "root": {**config["root"], "path": "rootfs"},
    }


def portable(profile: Mapping[str, Any]) -> dict[str, Any]:
    """The profile with comparisons of 32-bit arguments written so that a filter of libseccomp's looks at 32 bits of them only."""
    return {**profile, "syscalls": [one for entry in profile.get("syscalls") or () for one in _entries(entry)]}


def _entries(entry: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    conditions: list[Mapping[str, Any]] = entry.get("args") or []
    narrow = len(conditions) == 1 and all(conditions[0]["index"] in INT_ARGUMENTS.get(name, ()) for name in entry["names"])
    pairs = _masks(conditions[0]["op"], conditions[0]["value"]) if narrow and conditions[0]["value"] <= _LOW else None
    if pairs is None:
        yield entry
        return
    for mask, value in pairs:
        yield {**entry, "args": [{"index": conditions[0]["index"], "op": "SCMP_CMP_MASKED_EQ", "value": mask, "valueTwo": value}]}


def _masks(operator: str, value: int) -> list[tuple[int, int]] | None:
    """Pairs of mask and value, one of which holds exactly when the comparison of the low word does; None for what is masked already."""
    below = [(_prefix(bit), value >> bit + 1 << bit + 1) for bit in range(32) if value >> bit & 1]
    above = [(_prefix(bit), (value >> bit + 1 << bit + 1) | 1 << bit) for bit in range(32) if not value >> bit & 1]
    equal = [(_LOW, value)]
    found = {
        **{"SCMP_CMP_EQ": equal, "SCMP_CMP_NE": [*below, *above], "SCMP_CMP_LT": below, "SCMP_CMP_GT": above},
        **{"SCMP_CMP_LE": [*below, *equal], "SCMP_CMP_GE": [*above, *equal]},
    }
    return found.get(operator)


def _prefix(bit: int) -> int:
    """The bits of a word from ``bit`` up."""
    return _LOW >> bit << bit
