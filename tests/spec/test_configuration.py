"""The configuration file as a command line."""

from __future__ import annotations

import json

import pytest

from wherry.spec import configuration


def test_every_kind_of_value_becomes_its_flag() -> None:
    document = {
        "hosts": ["unix:///a", "unix:///b"],
        "debug": True,
        "runtimes": {"a": {"path": "/x y", "runtimeArgs": ["--z"]}},
        "no-new-privileges": False,
        "security-profile": "strict",
        "seccomp-profile": "/a.json",
        "proxies": {"http-proxy": "http://p"},
        "log-opts": {"max-size": "1m"},
        "default-address-pools": [{"base": "10.1.0.0/16", "size": 24}],
    }
    assert configuration.arguments(json.dumps(document).encode(), ()) == [
        "--host=unix:///a",
        "--host=unix:///b",
        "--debug",
        "--add-runtime=a='/x y' --z",
        "--security-profile=strict",
        "--seccomp-profile=/a.json",
        "--log-opt=max-size=1m",
        "--default-address-pool=base=10.1.0.0/16,size=24",
        "--http-proxy=http://p",
    ]
    assert configuration.arguments(b"", ()) == []


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ('{"bogus": 1, "debug": true}', "the following directives don't match any configuration option: bogus"),
        ('{"ip": "1.2.3.4"}', "specified both as a flag and in the configuration file: ip"),
        ("{x", "invalid JSON"),
        ("[]", "invalid JSON"),
        ('{"hosts": "unix:///a"}', "invalid value for hosts"),
        ('{"debug": "yes"}', "invalid value for debug"),
        ('{"default-address-pools": [{"base": "x"}]}', "invalid value for default-address-pools"),
        ('{"runtimes": {"a": {}}}', "invalid value for runtimes"),
        ('{"proxies": {"bad": "x"}}', "any configuration option: bad"),
        ('{"log-opts": {"a": 1}}', "invalid value for log-opts"),
    ],
)
def test_a_bad_file_is_refused_by_name(document: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        configuration.arguments(document.encode(), ("--ip",))
