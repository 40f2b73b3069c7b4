"""Capability sets of a child process, read back from the kernel."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests import forked

from wherry.kernel import credentials


def test_names_and_bits():
    assert credentials.mask(["CAP_CHOWN", "CAP_SYS_ADMIN"]) == 1 | credentials.SYS_ADMIN
    with pytest.raises(ValueError, match="unknown capability CAP_FLY"):
        credentials.mask(["CAP_FLY"])


@pytest.mark.root
def test_ambient_capabilities_need_to_be_inheritable():
    wanted = credentials.mask(["CAP_NET_BIND_SERVICE"])

    def work() -> None:
        with pytest.raises(PermissionError):
            credentials.raise_ambient(wanted)
        effective, permitted, _ = credentials.capget()
        credentials.capset(effective=effective, permitted=permitted, inheritable=wanted)
        credentials.raise_ambient(wanted)
        assert f"CapAmb:\t{wanted:016x}" in Path("/proc/self/status").read_text()

    assert forked.exit_code(work) == 0
