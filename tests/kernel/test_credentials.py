"""Capability sets of a child process, read back from the kernel."""

from __future__ import annotations

import os

import pytest

from wherry.kernel import credentials


def test_names_and_bits():
    assert credentials.mask(["CAP_CHOWN", "CAP_SYS_ADMIN"]) == 1 | credentials.SYS_ADMIN
    with pytest.raises(ValueError, match="unknown capability CAP_FLY"):
        credentials.mask(["CAP_FLY"])


@pytest.mark.root
def test_ambient_capabilities_need_to_be_inheritable():
    wanted = credentials.mask(["CAP_NET_BIND_SERVICE"])
    pid = os.fork()
    if pid == 0:
        try:
            credentials.raise_ambient(wanted)
        except PermissionError:
            effective, permitted, _ = credentials.capget()
            credentials.capset(effective=effective, permitted=permitted, inheritable=wanted)
            credentials.raise_ambient(wanted)
            with open("/proc/self/status") as file:
                os._exit(7 if f"CapAmb:\t{wanted:016x}" in file.read() else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
