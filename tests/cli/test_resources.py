"""Limits, devices, restart policies and networks on the command line."""

from __future__ import annotations

import pytest

from wherry.cli import attachments, resources


def test_ulimits_are_read() -> None:
    assert resources.ulimit("nofile=10:20") == {"Name": "nofile", "Hard": 20, "Soft": 10}
    assert resources.ulimit("core=-1") == {"Name": "core", "Hard": -1, "Soft": -1}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("x", "invalid ulimit argument: x"),
        ("foo=1", "invalid ulimit type: foo"),
        ("nofile=200:100", "ulimit soft limit must be less than or equal to hard limit: 200 > 100"),
    ],
)
def test_bad_ulimits_are_told_in_dockers_words(word: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        resources.ulimit(word)
    assert str(caught.value) == message


def test_a_device_has_a_path_inside_and_rights() -> None:
    assert resources.device_mapping("/dev/a:/dev/b:r") == {"PathOnHost": "/dev/a", "PathInContainer": "/dev/b", "CgroupPermissions": "r"}
    assert resources.device_mapping("/dev/a:rw") == {"PathOnHost": "/dev/a", "PathInContainer": "/dev/a", "CgroupPermissions": "rw"}
    assert resources.is_cdi_name("vendor.com/class=name")
    with pytest.raises(ValueError, match="x is not an absolute path"):
        resources.device("x")


def test_restart_policies_are_read() -> None:
    assert resources.restart_policy("on-failure:3") == {"Name": "on-failure", "MaximumRetryCount": 3}
    with pytest.raises(ValueError, match="maximum retry count must be an integer"):
        resources.restart_policy("always:x")


def test_a_network_may_be_described_in_full() -> None:
    assert attachments.network("net") == {"name": "net"}
    assert attachments.network("name=net,alias=a,alias=b,driver-opt=k=v,gw-priority=5") == {
        "name": "net",
        "alias": ["a", "b"],
        "driver-opt": {"k": "v"},
        "gw-priority": 5,
    }
    with pytest.raises(ValueError, match="invalid field key x"):
        attachments.network("name=n,x=y")
