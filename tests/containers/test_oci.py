"""The OCI config of a record."""

from __future__ import annotations

from typing import Any

import pytest

from wherry.containers import oci
from wherry.containers.create import complete_host_config
from wherry.containers.record import ContainerRecord, MountRecord, State
from wherry.errors import InvalidRequest
from wherry.runtime import defaults
from wherry.spec.docker.container import Config, DeviceMapping, HostConfig


def config_of(config: Config | None = None, host: HostConfig | None = None, **around: Any) -> dict[str, Any]:
    record = ContainerRecord(
        id="a" * 64,
        name="x",
        created_ns=0,
        image_id="",
        config=config or Config(hostname="h"),
        host_config=complete_host_config(host, default_log_options={}),
        path="true",
        args=["x"],
        state=State(),
        snapshot="s",
        mounts=around.pop("mounts", []),
    )
    return oci.oci_config(record, oci.Surroundings(cgroups_path="/wh/a", **around))


def test_the_environment_is_in_dockers_order_and_the_containers_own_wins() -> None:
    env = oci.environment(Config(hostname="h", tty=True, env=["PATH=/p", "A=1", "HOSTNAME=mine", "TERM"]), ["LINK=1"], terminal=True)
    assert env == ["PATH=/p", "HOSTNAME=mine", "LINK=1", "A=1"]


def test_no_capability_is_ever_inheritable_or_ambient() -> None:
    for host in (None, HostConfig(privileged=True), HostConfig(cap_add=["ALL"])):
        capabilities = config_of(host=host)["process"]["capabilities"]
        assert capabilities["inheritable"] == capabilities["ambient"] == []


def test_the_default_sandbox() -> None:
    config = config_of()
    assert config["process"]["capabilities"]["effective"] == [name for name in oci.security.CAPABILITIES if name in defaults.CAPABILITIES]
    assert config["linux"]["maskedPaths"] == defaults.masked_paths()
    assert config["linux"]["readonlyPaths"] == list(defaults.READONLY_PATHS)
    assert config["linux"]["seccomp"]["defaultAction"] == "SCMP_ACT_ERRNO"
    assert config["linux"]["resources"]["pids"] == {"limit": 4096}
    assert config["linux"]["resources"]["devices"][0] == {"allow": False, "access": "rwm"}
    assert {entry["type"] for entry in config["linux"]["namespaces"]} == {"mount", "pid", "ipc", "uts", "cgroup"}


def test_privileged_opens_what_docker_opens() -> None:
    config = config_of(host=HostConfig(privileged=True))
    assert config["linux"]["maskedPaths"] == config["linux"]["readonlyPaths"] == []
    assert config["linux"]["seccomp"] is None
    assert config["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    assert any(node["path"] == "/dev/null" for node in config["linux"]["devices"])


def test_the_strict_profile_gives_less_and_takes_what_is_added() -> None:
    strict = config_of(host=HostConfig(security_opt=["profile=strict"], cap_add=["NET_RAW"]))["process"]
    assert strict["noNewPrivileges"]
    assert set(defaults.CAPABILITIES) - set(strict["capabilities"]["bounding"]) == {"CAP_MKNOD", "CAP_AUDIT_WRITE"}


@pytest.mark.parametrize(
    ("options", "architecture", "action"),
    [
        ([], "amd64", ("SCMP_ACT_ERRNO", 38)),
        ([], "386", ("SCMP_ACT_ALLOW", None)),
        (["seccomp-socketcall=allow"], "amd64", ("SCMP_ACT_ALLOW", None)),
    ],
)
def test_socketcall_is_open_to_32_bit_images_and_on_request(options: list[str], architecture: str, action: tuple[str, int | None]) -> None:
    profile = oci.seccomp_of(HostConfig(security_opt=options), defaults.CAPABILITIES, architecture)
    assert profile is not None
    entries = [entry for entry in profile["syscalls"] if "socketcall" in entry["names"]]
    assert [(entry["action"], entry.get("errnoRet")) for entry in entries] == [action]


def test_the_daemons_filter_is_for_who_names_none() -> None:
    own = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]}

    def found(*options: str, default: Any, privileged: bool = False) -> Any:
        host = HostConfig(security_opt=list(options), privileged=privileged)
        made = config_of(host=host, seccomp=default)["linux"]["seccomp"]
        return made and made["defaultAction"]

    assert [found(default=one) for one in (True, False, own)] == ["SCMP_ACT_ERRNO", None, "SCMP_ACT_ALLOW"]
    assert [found("seccomp=builtin", default=one) for one in (True, False, own)] == ["SCMP_ACT_ERRNO"] * 3
    assert [found("seccomp=unconfined", default=one) for one in (True, own)] == [None, None]
    assert [found(default=one, privileged=True) for one in (True, own)] == [None, None]
    with pytest.raises(InvalidRequest, match="decoding seccomp profile failed"):
        found(default={"defaultAction": 7, "syscalls": [3]})


def test_an_apparmor_profile_is_handed_to_the_runtime() -> None:
    assert config_of(host=HostConfig(security_opt=["apparmor=mine"]))["process"]["apparmorProfile"] == "mine"
    assert "apparmorProfile" not in config_of(host=HostConfig(security_opt=["apparmor=unconfined"]))["process"]


def test_joined_namespaces_are_by_path_and_the_hosts_own_are_not_named() -> None:
    config = config_of(joined={"pid": "/proc/7/ns/pid", "ipc": "", "uts": ""})
    assert {"type": "pid", "path": "/proc/7/ns/pid"} in config["linux"]["namespaces"]
    assert {"ipc", "uts"} & {entry["type"] for entry in config["linux"]["namespaces"]} == set()
    assert "hostname" not in config
    shm = next(mount for mount in config["mounts"] if mount["destination"] == "/dev/shm")
    assert (shm["type"], shm["source"]) == ("bind", "/dev/shm")


def test_mounts_are_in_order_of_depth_and_files_of_ours_yield() -> None:
    own = [
        MountRecord(type="bind", source="/h", destination="/a/b"),
        MountRecord(type="bind", source="/h", destination="/etc/hosts", read_only=True),
        MountRecord(type="tmpfs", destination="/a", options=["size=1m", "exec"]),
    ]
    config = config_of(mounts=own, files={"/etc/hosts": "/f/hosts", "/etc/hostname": "/f/hostname"})
    places = [mount["destination"] for mount in config["mounts"]]
    assert places.index("/a") < places.index("/a/b")
    assert places.count("/etc/hosts") == 1
    assert next(mount for mount in config["mounts"] if mount["destination"] == "/etc/hosts")["source"] == "/h"
    assert next(mount for mount in config["mounts"] if mount["destination"] == "/a")["options"] == ["nosuid", "nodev", "size=1m", "exec"]


def test_cpus_become_a_quota() -> None:
    assert config_of(host=HostConfig(nano_cpus=500_000_000))["linux"]["resources"]["cpu"] == {"quota": 50_000, "period": 100_000}


def test_a_device_is_made_and_allowed() -> None:
    config = config_of(
        host=HostConfig(devices=[DeviceMapping(path_on_host="/dev/null", path_in_container="/dev/x", cgroup_permissions="r")])
    )
    assert config["linux"]["devices"][0] | {"fileMode": 0} == {
        "path": "/dev/x", "type": "c", "major": 1, "minor": 3, "fileMode": 0, "uid": 0, "gid": 0,
    }  # fmt: skip
    assert {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "r"} in config["linux"]["resources"]["devices"]


@pytest.mark.parametrize("path", ["/no/such", "/etc/hostname", "/etc"])
def test_what_is_no_device_is_refused(path: str) -> None:
    with pytest.raises(InvalidRequest, match="error gathering device information while adding custom device"):
        config_of(host=HostConfig(devices=[DeviceMapping(path_on_host=path)]))


@pytest.mark.parametrize("rule", ["c 1:3", "x 1:3 rwm", "c 1:3 rwx", "c a:b r"])
def test_bad_device_rules_are_refused(rule: str) -> None:
    with pytest.raises(InvalidRequest, match="invalid device cgroup rule format"):
        oci.device_rules(HostConfig(device_cgroup_rules=[rule]))


def test_a_users_own_seccomp_profile_is_used_and_a_broken_one_refused() -> None:
    host = HostConfig(security_opt=['seccomp={"defaultAction":"SCMP_ACT_ALLOW","syscalls":[]}'])
    assert config_of(host=host)["linux"]["seccomp"]["defaultAction"] == "SCMP_ACT_ALLOW"
    with pytest.raises(InvalidRequest, match="decoding seccomp profile failed: it has no defaultAction"):
        config_of(host=HostConfig(security_opt=['seccomp={"x":1}']))
