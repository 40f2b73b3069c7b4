"""Where hooks run, and what their failure does."""

from __future__ import annotations

import dataclasses
import json
import sys

import pytest
from tests.bundle.harness import COMMAND, bundle_config
from tests.runtime.harness import make_root

pytestmark = pytest.mark.root


def test_hooks_of_the_host_run_in_the_bundles_directory_with_a_usual_umask(runtime):
    kinds = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
    record = runtime.place / "where"
    configuration = bundle_config("true")
    configuration["hooks"] = {
        kind: [{"path": "/bin/sh", "args": ["sh", "-c", f"echo {kind} $(pwd) $(umask) >> {record}"]}] for kind in kinds
    }
    bundle = runtime.bundle(configuration)
    runtime("run", "--bundle", str(bundle), "t-where")
    assert record.read_text().splitlines() == [f"{kind} {bundle} 0022" for kind in kinds]


def test_a_hook_inside_runs_at_the_root(runtime, tmp_path):
    root = tmp_path / "own"
    root.mkdir(mode=0o755)
    own = dataclasses.replace(runtime, image=make_root(root))
    configuration = bundle_config("cat", "/where")
    configuration["hooks"] = {"startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "pwd > /where"]}]}
    assert own.run(configuration).out == "/\n"


def test_a_kind_of_hook_that_nobody_knows_is_ignored(runtime):
    """As is every property that a specification to come may have.  Source: OCI runtime-spec 1.2, config.md#extensibility."""
    configuration = bundle_config("echo", "ran")
    configuration["hooks"] = {"beforeLunch": [{"path": "/bin/false"}]}
    assert runtime.run(configuration).out == "ran\n"


def test_a_hook_that_fails_after_a_program_has_ended_is_what_start_tells(runtime):
    configuration = bundle_config("true")
    configuration["hooks"] = {"poststart": [{"path": "/bin/sh", "args": ["sh", "-c", "sleep 0.3; exit 3"]}]}
    ident = runtime.create(configuration)
    done = runtime("start", ident, check=False)
    assert (done.code, "error running poststart hook /bin/sh: exit status 3" in done.err) == (1, True), done.err


@pytest.mark.parametrize(("kind", "status"), [("createRuntime", "creating"), ("poststart", "running")])
def test_a_hook_may_ask_for_its_container(runtime, kind, status):
    """It would wait for the command that waits for it."""
    record = runtime.place / "asked"
    command = " ".join((*COMMAND, "--root", str(runtime.place / "state")))
    script = f"{command} state t-asked; {command} list -q; {command} exec t-asked echo inside 2>&1; true"
    configuration = bundle_config("sleep", "600")
    environment = ["PATH=/bin:/usr/bin", f"PYTHONPATH={':'.join(sys.path)}"]  # where we are not installed
    configuration["hooks"] = {
        kind: [{"path": "/bin/sh", "args": ["sh", "-c", f"{{ {script}; }} > {record}"], "env": environment, "timeout": 30}]
    }
    runtime("create", "--bundle", str(runtime.bundle(configuration)), "t-asked")
    assert runtime.state("t-asked")["status"] == "created"
    runtime("start", "t-asked")
    document, _, rest = record.read_text().rpartition("}\n")
    found = json.loads(document + "}")
    assert (found["status"], found["pid"]) == (status, runtime.state("t-asked")["pid"])
    assert rest.startswith("t-asked\n")
    assert ("inside" if kind == "poststart" else "container t-asked is being created") in rest
