"""What a build is given, as the engine gives it."""

from __future__ import annotations

import pytest

from .conftest import Bench


@pytest.mark.root
def test_the_request_reaches_the_sandbox_of_run_steps(bench: Bench) -> None:
    bench.sandboxes.clear()
    bench.build("FROM base\nUSER bob\nWORKDIR /tmp\nRUN true\n", network_mode="none", extra_hosts=("a:1.2.3.4",), no_cache=True)
    (spec,) = bench.sandboxes
    assert (spec.args, spec.user, spec.cwd, spec.network) == (("/bin/sh", "-c", "true"), "bob", "/tmp", "none")
    assert (spec.hostname, spec.extra_hosts) == ("buildkitsandbox", ("a:1.2.3.4",))
