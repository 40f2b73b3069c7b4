"""The config another runtime gets."""

from __future__ import annotations

import operator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.kernel.test_seccomp import interpret

from wherry.kernel import seccomp
from wherry.runtime import bundle, defaults
from wherry.runtime.filters import Compiler
from wherry.runtime.users import Identity

OPERATORS = {"EQ": operator.eq, "NE": operator.ne, "LT": operator.lt, "LE": operator.le, "GT": operator.gt, "GE": operator.ge}
NUMBERS = st.one_of(st.sampled_from([0, 1, 37, 38, 39, 40, 41, 2**31, 2**32 - 1]), st.integers(0, 2**32 - 1))


@given(st.sampled_from(sorted(OPERATORS)), NUMBERS, NUMBERS, st.sampled_from([0, 1, 0xFFFFFFFF]))
def test_a_comparison_of_32_bits_is_the_same_by_masks(name: str, value: int, argument: int, high: int) -> None:
    rule = {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": value, "op": f"SCMP_CMP_{name}"}]}
    found = bundle.portable({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule]})["syscalls"]
    seen = high << 32 | argument  # libseccomp compares all 64 bits
    holds = any(seen & entry["args"][0]["value"] == entry["args"][0]["valueTwo"] for entry in found)
    assert holds == OPERATORS[name](argument, value)
    assert all(entry["args"][0]["op"] == "SCMP_CMP_MASKED_EQ" for entry in found)


@pytest.mark.parametrize("arguments", [(2,), (38,), (39,), (40,), (1 << 32 | 40,), (1 << 32 | 2,), (0xFFFFFFFF,)])
def test_the_default_profile_means_the_same(arguments: tuple[int, ...]) -> None:
    profile = defaults.resolve_seccomp(defaults.load_seccomp_template(), defaults.CAPABILITIES, architecture="amd64", kernel="6.18.0")
    ours, theirs = Compiler().program(profile), Compiler().program(bundle.portable(profile))
    padded = (*arguments, *(0,) * (6 - len(arguments)))
    assert interpret(ours, 41, padded) == interpret(theirs, 41, padded)
    assert interpret(theirs, 165, padded) == seccomp.RET_ERRNO | 1


def test_what_docker_means_is_worked_out() -> None:
    config: dict[str, Any] = {
        "ociVersion": "1.2.0",
        "root": {"path": "x", "readonly": True},
        "process": {"args": ["a"], "env": ["A=b"], "terminal": True, "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"]}},
        "linux": {"namespaces": [{"type": "pid"}, {"type": "network"}], "seccomp": None},
    }
    message = {"config": config, "console_size": (20, 80)}
    who = Identity(uid=7, gid=8, groups=(8, 9), home="/h")
    found = bundle.configuration(message, who, netns_path="/proc/1/fd/5")
    assert found["process"]["user"] == {"uid": 7, "gid": 8, "additionalGids": [8, 9]}
    assert found["process"]["env"] == ["A=b", "HOME=/h"]
    assert found["process"]["capabilities"] == {"bounding": ["CAP_KILL"], "effective": [], "permitted": []}
    assert found["process"]["consoleSize"] == {"height": 20, "width": 80}
    assert found["linux"]["namespaces"] == [{"type": "pid"}, {"type": "network", "path": "/proc/1/fd/5"}]
    assert found["root"] == {"path": "rootfs", "readonly": True}
    assert "seccomp" not in found["linux"]
    assert config["process"]["env"] == ["A=b"]
    root = bundle.configuration(message, Identity(uid=0, gid=0, groups=(0,), home="/root"), netns_path="")
    assert root["process"]["capabilities"]["effective"] == ["CAP_KILL"]
    init = bundle.configuration({**message, "init_program": "/usr/bin/tini-static"}, who, netns_path="")
    assert init["process"]["args"] == ["/sbin/docker-init", "--", "a"]
    assert [(one["source"], one["destination"]) for one in init["mounts"]] == [("/usr/bin/tini-static", "/sbin/docker-init")]
    assert config["process"]["args"] == ["a"]
