"""Capabilities, security options and sysctls."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.containers import security
from wherry.errors import InvalidRequest, NotSupported

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


@pytest.mark.parametrize("option", ["bogus=1", "no-new-privileges=maybe", "seccomp={"])
def test_bad_options_are_refused(option: str) -> None:
    with pytest.raises(InvalidRequest):
        security.parse_security_options([option])


def test_a_profile_the_kernel_cannot_apply_is_refused() -> None:
    with pytest.raises(NotSupported, match="AppArmor"):
        security.refuse_labels(security.parse_security_options(["apparmor=docker-default"]), apparmor_available=False)
    security.refuse_labels(security.parse_security_options(["apparmor=unconfined"]), apparmor_available=False)
