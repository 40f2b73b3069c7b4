"""What becomes of a program that asks for more than the default: each field, read back inside."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.runtime.harness import Bench, bench, config

from wherry.runtime.failure import LaunchFailure

pytestmark = pytest.mark.root
NET_BIND = "CAP_NET_BIND_SERVICE"


def run(coroutine_function, image: Path, place: Path) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), bench(image, place) as b:
            await coroutine_function(b)

    asyncio.run(main())


async def output(b: Bench, script: str, configuration=None, **process) -> str:
    made = configuration or config("sh", "-c", script, **process)
    result = await b.run(made)
    assert result.record.code == 0, result.stderr
    return result.stdout.decode()


def test_five_capability_sets(image, tmp_path):
    async def check(b):
        sets = {name: [NET_BIND, "CAP_CHOWN"] for name in ("bounding", "effective", "permitted", "inheritable")}
        user = {"uid": 1000, "gid": 1000}
        text = await output(b, "grep Cap /proc/self/status", capabilities={**sets, "ambient": [NET_BIND]}, user=user)
        found = dict(line.split(":\t") for line in text.splitlines())
        assert found == {
            "CapInh": "0000000000000401",
            "CapPrm": "0000000000000400",
            "CapEff": "0000000000000400",
            "CapBnd": "0000000000000401",
            "CapAmb": "0000000000000400",
        }

    run(check, image, tmp_path)


def test_scheduler_and_io_priority(image, tmp_path):
    async def check(b):
        script = "grep policy /proc/self/sched 2>/dev/null; cut -d' ' -f19,41 /proc/self/stat"
        text = await output(b, script, scheduler={"policy": "SCHED_BATCH", "nice": 3}, ioPriority={"class": "IOPRIO_CLASS_IDLE"})
        assert text.split()[-2:] == ["3", "3"]  # nice; SCHED_BATCH is 3
        with pytest.raises(LaunchFailure, match="SCHED_FLY is not a scheduling policy"):
            await b.run(config("true", scheduler={"policy": "SCHED_FLY"}))

    run(check, image, tmp_path)


def test_personality_is_the_programs(image, tmp_path):
    async def check(b):
        configuration = config("cat", "/proc/self/personality")
        configuration["linux"]["personality"] = {"domain": "LINUX32"}
        configuration["linux"]["seccomp"] = None
        assert await output(b, "", configuration) == "00000008\n"
        configuration = config("true")
        configuration["linux"]["personality"] = {"domain": "LINUX64"}
        with pytest.raises(LaunchFailure, match=r"linux.personality .* is not supported"):
            await b.run(configuration)

    run(check, image, tmp_path)


def test_a_filter_with_no_new_privileges_may_forbid_what_set_it_up(image, tmp_path):
    async def check(b):
        configuration = config("grep", "Seccomp:", "/proc/self/status", noNewPrivileges=True)
        forbidden = ["capset", "setgroups"]
        configuration["linux"]["seccomp"] = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": forbidden, "action": "SCMP_ACT_KILL_PROCESS"}],
        }
        configuration["process"]["user"] = {"uid": 1000, "gid": 1000}
        configuration["process"]["capabilities"] = {}
        assert (await output(b, "", configuration)).split() == ["Seccomp:", "2"]

    run(check, image, tmp_path)


def test_an_id_mapped_bind_mount(image, tmp_path):
    async def check(b):
        source = tmp_path / "volume"
        source.mkdir()
        (source / "file").write_text("x")
        configuration = config("stat", "-c", "%u %g", "/mnt/file")
        maps = [{"containerID": 0, "hostID": 5000, "size": 1000}]
        mount = {"destination": "/mnt", "source": str(source), "options": ["bind"], "uidMappings": maps, "gidMappings": maps}
        configuration["mounts"].append(mount)
        assert await output(b, "", configuration) == "5000 5000\n"

    run(check, image, tmp_path)


def test_a_tmpfs_starts_with_what_lies_under_it(image, tmp_path):
    async def check(b):
        configuration = config("sh", "-c", "cat /data/file; grep ' /data ' /proc/self/mountinfo")
        options = ["mode=700", "tmpcopyup", "shared"]
        configuration["mounts"].append({"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": options})
        text = await output(b, "", configuration)
        assert text.startswith("from the image\n")
        assert "shared:" in text

    run(check, image, tmp_path)


def test_a_bound_dev_is_left_as_it_is(image, tmp_path):
    async def check(b):
        configuration = config("sh", "-c", "ls /dev/null /dev/zero")
        configuration["mounts"] = [one for one in configuration["mounts"] if not one["destination"].startswith("/dev")]
        configuration["mounts"].append({"destination": "/dev", "source": "/dev", "options": ["rbind"]})
        before = Path("/dev/tty").stat()
        await output(b, "", configuration)
        assert (Path("/dev/tty").stat().st_uid, Path("/dev/tty").stat().st_gid) == (before.st_uid, before.st_gid)

    run(check, image, tmp_path)
