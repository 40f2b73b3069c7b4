"""A daemon on a kernel that does not keep its word: a filter of ours answers "done" to calls that it does not let through."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.conftest import dispose, make_daemon

from wherry.kernel import libc

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.skipif(libc.MACHINE != "x86_64", reason="numbers of x86-64")]
LIE = """
import os, sys
from wherry.kernel import seccomp
from wherry.kernel.seccomp import Condition, Rule
number, argument, value = (int(word) for word in sys.argv[1:4])
done, pass_ = Rule(seccomp.RET_ERRNO, (Condition(argument, "==", value),)), Rule(seccomp.RET_ALLOW)
rules = {"x86_64": {number: [done, pass_]}, "i386": {}}
seccomp.load(seccomp.assemble(rules, seccomp.RET_ALLOW))
os.execv(sys.executable, [sys.executable, "-m", "wherry.daemon", *sys.argv[4:]])
"""
DROP_BOUNDING, LOAD_FILTER = ("157", "0", "24"), ("317", "0", "1")  # prctl(PR_CAPBSET_DROP), seccomp(SECCOMP_SET_MODE_FILTER)


def test_a_weak_sandbox_is_not_served(tmp_path: Path) -> None:
    daemon = make_daemon()
    (tmp_path / "lie.py").write_text(LIE)
    daemon.program = (str(tmp_path / "lie.py"), *DROP_BOUNDING)
    with pytest.raises(RuntimeError, match=r"weaker than configured: .*CapBnd is [0-9a-f]{16}, not 00000000a80425fb.*Nothing is served"):
        daemon.start()
    assert daemon.process is not None
    assert daemon.process.wait(60) == 1
    assert sum(path.is_file() for path in (daemon.root / "data/self-test").rglob("*")) == 1
    daemon.program = ("-m", "wherry.daemon")
    dispose(daemon)


def test_a_daemon_that_may_serve_it_warns(tmp_path: Path) -> None:
    daemon = make_daemon("--self-test", "warn")
    (tmp_path / "lie.py").write_text(LIE)
    daemon.program = (str(tmp_path / "lie.py"), *LOAD_FILTER)
    daemon.start()
    try:
        warnings = daemon.out("info", "-f", "{{range .Warnings}}{{println .}}{{end}}")
    finally:
        daemon.program = (sys.executable, "-m", "wherry.daemon")[1:]
        dispose(daemon)
    assert "weaker than configured: socket(AF_VSOCK) with a high bit " in warnings
    assert "weaker than configured: unshare(CLONE_NEWUSER) is allowed" in warnings
