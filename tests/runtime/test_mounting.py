"""What a container sees, and what an image cannot bend."""

from __future__ import annotations

import os

import pytest
from tests.runtime.harness import (
    config,
    finish,
    run,
    sleeper,
)

from wherry.runtime import defaults
from wherry.runtime.failure import LaunchFailure
from wherry.spec.launch import CopyUp
from wherry.spec.mounts import Rootfs

pytestmark = pytest.mark.root


def test_bind_mounts_volumes_and_tmpfs(image, tmp_path):
    async def check(b):
        host = tmp_path / "host"
        host.mkdir()
        (host / "f").write_text("host file\n")
        volume = tmp_path / "volume"
        volume.mkdir()
        configuration = config(
            "sh", "-c", "cat /mnt/deep/f; (touch /mnt/deep/x) 2>&1 | grep -c Read-only; cat /data/file /one; stat -c %u:%g /data; ls /t"
        )
        configuration["mounts"] += [
            {"destination": "/mnt/deep", "type": "bind", "source": str(host), "options": ["rbind", "ro", "rprivate"]},
            {"destination": "/data", "type": "bind", "source": str(volume), "options": ["rbind"]},
            {"destination": "/one", "type": "bind", "source": str(host / "f"), "options": ["rbind"]},
            {"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "size=1m"]},
        ]
        result = await b.run(configuration, copy_ups=(CopyUp(source=str(volume), destination="/data"),))
        assert result.stdout == b"host file\n1\nfrom the image\nhost file\n7:8\n"
        assert (volume / "file").read_text() == "from the image\n"
        assert (volume.stat().st_uid, volume.stat().st_gid) == (7, 8)
        assert sorted(os.listdir(host)) == ["f"]

    run(check, image, tmp_path)


def test_image_links_lead_no_mount_outside(image, tmp_path):
    async def check(b):
        outside = tmp_path / "outside"
        outside.mkdir()
        host = tmp_path / "host"
        host.mkdir()
        layer = tmp_path / "layer"
        (layer / "etc").mkdir(parents=True)
        (layer / "link").symlink_to(outside)
        (layer / "etc/passwd").symlink_to("/dev/zero")
        configuration = config("ls", "/link")
        configuration["mounts"].append({"destination": "/link/new", "type": "bind", "source": str(host), "options": ["rbind"]})
        launch = b.launch(configuration)
        rootfs = Rootfs(lower=(str(layer), str(image)), upper=launch.rootfs.upper, work=launch.rootfs.work)
        result = None
        try:
            result = await b.run(configuration, rootfs=rootfs)
        except LaunchFailure:
            pass
        assert result is None or result.stdout in (b"new\n", b"")
        assert os.listdir(outside) == []

    run(check, image, tmp_path)


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
def test_image_with_a_link_for_a_kernel_directory_harms_nothing(image, tmp_path, name):
    async def check(b):
        outside = tmp_path / "outside"
        outside.mkdir()
        layer = tmp_path / "layer"
        layer.mkdir()
        (layer / name).symlink_to(outside)
        launch = b.launch(config("true"))
        rootfs = Rootfs(lower=(str(layer), str(image)), upper=launch.rootfs.upper, work=launch.rootfs.work)
        with pytest.raises(LaunchFailure):
            await b.run(config("true"), rootfs=rootfs)
        assert os.listdir(outside) == []

    run(check, image, tmp_path)


def test_working_directory_is_made_and_magic_links_are_no_way_out(image, tmp_path):
    async def check(b):
        result = await b.run(config("pwd", cwd="/new/place"))
        assert result.stdout == b"/new/place\n"
        for number in (3, 5, 7, 9, 12):
            try:
                result = await b.run(config("pwd", cwd=f"/proc/self/fd/{number}"))
            except LaunchFailure:
                continue
            assert not result.stdout.startswith(b"(unreachable)")
        with pytest.raises(LaunchFailure, match="chdir to cwd"):
            await b.run(config("true", cwd="/etc/plain"))

    run(check, image, tmp_path)


def test_privileged_container_has_everything(image, tmp_path):
    async def check(b):
        configuration = config(
            "sh", "-c", "grep CapEff /proc/self/status; grep Seccomp: /proc/self/status; mount -t tmpfs x /tmp && echo ok"
        )
        every = [name for name in __import__("wherry.kernel.credentials", fromlist=["NAMES"]).NAMES]
        configuration["process"]["capabilities"] = {"bounding": every, "permitted": every, "effective": every}
        configuration["linux"] |= {"seccomp": None, "maskedPaths": [], "readonlyPaths": []}
        configuration["mounts"] = defaults.mounts(privileged=True)
        result = await b.run(configuration)
        assert b"Seccomp:\t0\nok\n" in result.stdout, result

    run(check, image, tmp_path)


def test_sharing_namespaces_by_path(image, tmp_path):
    async def check(b):
        process, _ = await sleeper(b)
        configuration = config("sh", "-c", "ps; hostname")
        configuration.pop("hostname")
        for entry in configuration["linux"]["namespaces"]:
            if entry["type"] in ("pid", "uts", "ipc", "network"):
                kind = {"network": "net"}.get(entry["type"], entry["type"])
                entry["path"] = f"/proc/{process.pid}/ns/{kind}"
        result = await b.run(configuration)
        assert b"sleep 600" in result.stdout
        assert result.stdout.endswith(b"boat\n")
        await finish(process)

    run(check, image, tmp_path)


def test_limits_read_only_root_and_no_new_privileges(image, tmp_path):
    async def check(b):
        script = "ulimit -n; grep NoNew /proc/self/status; cat /proc/self/oom_score_adj; pwd; touch /x 2>&1"
        limits = [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}, {"type": "RLIMIT_NPROC", "soft": 1 << 63, "hard": 1 << 63}]
        configuration = config("sh", "-c", script, cwd="/w", rlimits=limits, noNewPrivileges=True, oomScoreAdj=300)
        configuration["root"]["readonly"] = True
        result = await b.run(configuration)
        assert result.stdout == b"100\nNoNewPrivs:\t1\n300\n/w\ntouch: /x: Read-only file system\n"

    run(check, image, tmp_path)
