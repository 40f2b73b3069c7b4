"""Values of another kind than a field has are refused by the field's name, before anything is made."""

from __future__ import annotations

import json

import pytest
from tests.bundle.harness import bundle_config, leftovers

from wherry.bundle import shape
from wherry.bundle.failures import Failure

pytestmark = pytest.mark.root


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "it is not an object: []"),
        ({"process": {"args": "sh"}}, "process.args is not a list: 'sh'"),
        ({"process": {"env": ["A=b", None]}}, "process.env[1] is not a text: None"),
        ({"process": {"user": {"uid": -1}}}, "process.user.uid is not from 0 to 4294967295: -1"),
        ({"process": {"user": {"uid": True}}}, "process.user.uid is not a whole number: True"),
        ({"process": {"terminal": 1}}, "process.terminal is not true or false: 1"),
        ({"process": {"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 9}}}, "process.ioPriority.priority is not from 0 to 7: 9"),
        ({"annotations": {"a": 5}}, "annotations[a] is not a text: 5"),
        ({"linux": {"resources": {"memory": {"limit": 1 << 63}}}}, "linux.resources.memory.limit is not from"),
        (
            {"linux": {"seccomp": {"syscalls": [{"args": [{"index": "0"}]}]}}},
            "linux.seccomp.syscalls[0].args[0].index is not a whole number",
        ),
        ({"mounts": "x" * 200}, "mounts is not a list: 'xxx"),
    ],
)
def test_the_field_is_named(value, words):
    with pytest.raises(Failure) as raised:
        shape.checked(value, shape.CONFIG)
    assert words in raised.value.message
    assert len(raised.value.message) < 160


def test_null_is_as_nothing_and_what_is_not_known_stays():
    value = {"hostname": None, "vm": {"kernel": None}, "linux": {"devices": None, "sysctl": {"a": None}}, "hooks": {"later": [1]}}
    assert shape.checked(value, shape.CONFIG) == {"vm": {"kernel": None}, "linux": {"sysctl": {}}, "hooks": {"later": [1]}}


def test_commands_name_file_and_field_and_leave_nothing(runtime, tmp_path):
    configuration = bundle_config("true")
    configuration["process"]["rlimits"] = [{"type": "RLIMIT_CORE", "soft": 0}]
    done = runtime.run(configuration, check=False)
    assert (done.code, done.err.splitlines()[-1:]) == (1, ["wherry-runtime: run failed: process.rlimits: hard is missing"])
    configuration["process"]["env"] = 5
    done = runtime.run(configuration, check=False)
    assert (done.code, "config.json: process.env is not a list: 5" in done.err) == (1, True), done.err
    ident = runtime.create(bundle_config("sleep", "60"))
    file = tmp_path / "given.json"
    for words, value, told in (
        (("exec", "--process"), {"args": ["true"], "cwd": 1}, "cwd is not a text: 1"),
        (("update", "--resources"), {"pids": {"limit": "x"}}, "pids.limit is not a whole number: 'x'"),
    ):
        file.write_text(json.dumps(value))
        done = runtime(words[0], words[1], str(file), ident, check=False)
        assert (done.code > 0, told in done.err, "Traceback" in done.err) == (True, True, False), done.err
    runtime("delete", "--force", ident)
    assert leftovers(runtime.place) == []
