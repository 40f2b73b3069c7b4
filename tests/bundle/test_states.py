"""What a container's state is called."""

from __future__ import annotations

import pytest
from tests.bundle.harness import bundle_config

pytestmark = pytest.mark.root


def test_one_that_was_paused_before_its_start_is_paused_and_then_created_again(runtime):
    ident = runtime.create(bundle_config("true"))
    runtime("pause", ident)
    assert runtime.state(ident)["status"] == "paused"
    runtime("resume", ident)
    assert runtime.state(ident)["status"] == "created"
    runtime("start", ident)
