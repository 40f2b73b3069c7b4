"""What a daemon finds at its start."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from tests.runtime.harness import Bench, make_root, run, sleeper
from tests.system.waiting import until

from wherry.engine import recover

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_root(tmp_path_factory.mktemp("image"))


def test_a_number_that_another_process_has_by_now_leads_to_nobodys_network(image: Path, tmp_path: Path) -> None:
    async def check(b: Bench) -> None:
        process, _ = await sleeper(b)
        fd = recover.network_of(process)
        assert fd is not None
        assert os.fstat(fd).st_ino != os.stat("/proc/self/ns/net").st_ino
        os.close(fd)
        process.signal(signal.SIGKILL)
        until(lambda: not os.path.exists(f"/proc/{process.pid}"))  # reaped, and the loop has not heard of it
        assert recover.network_of(process) is None
        process.pid = os.getpid()
        assert recover.network_of(process) is None
        await process.wait()
        await process.acknowledge()

    run(check, image, tmp_path)
