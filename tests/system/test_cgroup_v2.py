"""Control groups v2 on a real kernel that has nothing else: a virtual machine runs the runtime's own tests."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "v2kernel"


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_runtime_works_on_a_kernel_with_cgroup_v2_alone() -> None:
    if shutil.which("qemu-system-x86_64") is None or os.geteuid() != 0:
        pytest.skip("needs root and qemu-system-x86_64 (Debian: qemu-system-x86)")
    with subprocess.Popen(
        [sys.executable, str(TOOL)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as tool:
        try:
            told, _ = tool.communicate(timeout=570)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(tool.pid, signal.SIGKILL)  # the machine too: it would go on beside other tests
    assert tool.returncode == 0, told[-5000:]
    assert "passed" in told
