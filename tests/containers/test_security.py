"""Capabilities, security options and sysctls."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.containers import security
from wherry.errors import InvalidRequest, NotSupported
from wherry.runtime import defaults

DEFAULT = ("CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW")
ALL = security.CAPABILITIES


def effective(add: list[str] | None = None, drop: list[str] | None = None, *, privileged: bool = False) -> set[str]:
    return set(security.effective(DEFAULT, add, drop, privileged=privileged, available=ALL))


def test_capabilities_are_added_and_dropped_as_docker_does() -> None:
    assert effective() == set(DEFAULT)
    assert effective(["net_admin"], ["CAP_KILL"]) == {"CAP_CHOWN", "CAP_NET_RAW", "CAP_NET_ADMIN"}
    assert effective(["NET_BIND_SERVICE"], ["ALL"]) == {"CAP_NET_BIND_SERVICE"}
    assert effective(["ALL"], ["SYS_ADMIN"]) == set(ALL) - {"CAP_SYS_ADMIN"}
    assert effective(drop=["ALL"], privileged=True) == set(ALL)


@given(
    st.lists(st.sampled_from([*ALL, "ALL"]), max_size=5),
    st.lists(st.sampled_from([*ALL, "ALL"]), max_size=5),
    st.sets(st.sampled_from(ALL)),
)
def test_nothing_beyond_what_is_available_is_ever_given(add: list[str], drop: list[str], available: set[str]) -> None:
    given_out = security.effective(DEFAULT, add, drop, privileged=False, available=tuple(available))
    assert set(given_out) <= available


@given(st.lists(st.sampled_from(ALL), max_size=6))
def test_dropping_more_never_gives_more(drop: list[str]) -> None:
    assert effective(drop=drop) <= effective()


def test_options_are_read() -> None:
    options = security.parse_security_options(["no-new-privileges", "seccomp=unconfined", "systempaths=unconfined", "label=disable"])
    assert (options.no_new_privileges, options.seccomp, options.unconfined_paths) == (True, False, True)
    assert security.parse_security_options(['seccomp={"defaultAction":"SCMP_ACT_ALLOW"}']).seccomp == {"defaultAction": "SCMP_ACT_ALLOW"}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("bogus=1", 'invalid --security-opt 2: "bogus=1"'),
        ("bogus", 'invalid --security-opt 1: "bogus"'),
        ("", 'invalid --security-opt 1: ""'),
        ("no-new-privileges=maybe", 'invalid --security-opt 2: "no-new-privileges=maybe"'),
        ("systempaths=x", 'invalid --security-opt 2: "systempaths=x"'),
        ("writable-cgroups=x", 'invalid --security-opt 2: "writable-cgroups=x"'),
        ("profile=lax", 'invalid --security-opt 2: "profile=lax"'),
        ("seccomp-socketcall=x", 'invalid --security-opt 2: "seccomp-socketcall=x"'),
        ("seccomp={", "decoding seccomp profile failed"),
    ],
)
def test_bad_options_are_refused_in_dockers_words(option: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(message)):
        security.parse_security_options([option])


def test_the_strict_profile_narrows_and_what_is_said_wins() -> None:
    strict = security.parse_security_options(["profile=strict"])
    assert strict.no_new_privileges
    assert set(defaults.CAPABILITIES) - set(strict.narrowed(defaults.CAPABILITIES)) == {"CAP_MKNOD", "CAP_AUDIT_WRITE", "CAP_NET_RAW"}
    assert not security.parse_security_options(["profile=strict", "no-new-privileges=false"]).no_new_privileges
    assert not security.parse_security_options(["profile=default"]).no_new_privileges
    assert security.parse_security_options(["no-new-privileges:1"]).no_new_privileges


def test_the_daemons_settings_speak_where_a_container_says_nothing() -> None:
    strict = {"profile": "strict", "no_new_privileges": True}
    assert security.completed(None, **strict) == ["profile=strict", "no-new-privileges"]
    own = ["profile=default", "no-new-privileges=false"]
    assert security.completed(own, **strict) == own
    assert security.completed(None, profile="default", no_new_privileges=False) is None


def test_what_the_machine_cannot_carry_out_is_refused() -> None:
    lacking = {"apparmor": False, "selinux": True, "unified_cgroups": False, "privileged": False}
    for option, words in (("apparmor=docker-default", "AppArmor"), ("label=type:x", "SELinux"), ("writable-cgroups=true", "cgroup v2")):
        with pytest.raises(NotSupported, match=words):
            security.refuse_unavailable(security.parse_security_options([option]), **lacking)
    security.refuse_unavailable(security.parse_security_options(["label=type:x"]), **{**lacking, "selinux": False})
    for option in ("apparmor=unconfined", "label=disable", "disable", "writable-cgroups=false"):
        security.refuse_unavailable(security.parse_security_options([option]), **lacking)
