"""A plan is a printable list."""

from __future__ import annotations

import pytest
from tests.runtime.harness import config

from wherry.kernel import mount, namespace
from wherry.runtime import options, plan, steps
from wherry.runtime.client import detach_sequence
from wherry.runtime.failure import StartFailure


def launch(configuration, **fields):
    return {"config": configuration, "rootfs": {"lower": ["/l2", "/l1"], "upper": "/u", "work": "/w"}, "terminal": False, **fields}


def test_default_container_can_be_read_step_by_step():
    made = plan.make(launch(config("true")), netns_fd=9)
    text = steps.describe(list(made.steps))
    lines = [line.split(". ", 1)[1].split(" ")[0:2] for line in text.splitlines()]
    order = [" ".join(line) for line in lines]
    for earlier, later in (
        ("join namespace", "stop mounts"),
        ("stop mounts", "mount root:"),
        ("mount root:", "mount proc"),
        ("mount proc", "set net.ipv4.ip_unprivileged_port_start=0"),
        ("make devices", "mount devpts"),
        ("mask /proc/asound", "enter the"),
    ):
        assert order.index(earlier) < order.index(later), text
    assert made.birth.clone_flags & namespace.CLONE_NEWNET == 0
    assert made.birth.clone_flags & namespace.CLONE_NEWPID
    assert order[-1] == "enter the"


@pytest.mark.parametrize("destination", ["/proc", "/proc/self", "/proc/../proc/sys", "//proc/1"])
def test_nothing_is_mounted_over_proc(destination):
    configuration = config("true")
    configuration["mounts"].append({"destination": destination, "type": "bind", "source": "/etc", "options": ["rbind"]})
    with pytest.raises(StartFailure, match="inside /proc"):
        plan.make(launch(configuration))


@pytest.mark.parametrize(
    ("key", "value", "name"),
    [("hooks", {"prestart": [{}]}, "hooks"), ("linux", {"intelRdt": {"closID": "x"}}, "linux.intelRdt")],
)
def test_unsupported_fields_are_refused_by_name(key, value, name):
    configuration = config("true")
    configuration[key] = value
    with pytest.raises(StartFailure, match=f"{name} is not supported"):
        plan.make(launch(configuration))


def test_mount_options_are_sorted():
    parsed = options.parse(["rbind", "ro", "rw", "ro", "nosuid", "rslave", "size=1k", "rro", "defaults", ""])
    assert (parsed.bind, parsed.recursive) == (True, True)
    assert parsed.add == mount.MOUNT_ATTR_RDONLY | mount.MOUNT_ATTR_NOSUID
    assert parsed.recursive_add == mount.MOUNT_ATTR_RDONLY
    assert (parsed.propagation, parsed.propagation_recursive) == (mount.MS_SLAVE, True)
    assert parsed.data == (("size", "1k"),)
    assert options.parse(["rbind", "ridmap"]).idmap_recursive
    assert options.parse(["tmpcopyup", "mode=700"]).copy_up
    with pytest.raises(ValueError, match="remount is not supported"):
        options.parse(["remount", "ro"])


@pytest.mark.parametrize(("text", "keys"), [("ctrl-p,ctrl-q", b"\x10\x11"), ("ctrl-@,a", b"\0a"), ("", b""), ("ctrl-[", b"\x1b")])
def test_detach_keys(text, keys):
    assert detach_sequence(text) == keys


def test_bad_detach_keys():
    with pytest.raises(ValueError, match="ctrl-1"):
        detach_sequence("ctrl-1")
