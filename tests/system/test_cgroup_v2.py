"""Control groups v2 on a real kernel that has nothing else: a virtual machine runs the runtime's own tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "v2kernel"


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_runtime_works_on_a_kernel_with_cgroup_v2_alone() -> None:
    if shutil.which("qemu-system-x86_64") is None or os.geteuid() != 0:
        pytest.skip("needs root and qemu-system-x86_64 (Debian: qemu-system-x86)")
    done = subprocess.run([sys.executable, str(TOOL)], capture_output=True, text=True, timeout=380, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "passed" in done.stdout
