"""From a create body and an image to a record: merging, defaults and refusals, in Docker's words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.containers import create
from wherry.errors import EngineError, InvalidRequest, NotSupported
from wherry.spec.docker.container import (
    Config,
    ContainerCreate,
    DeviceRequest,
    Healthcheck,
    HostConfig,
    LogConfig,
    NetworkingConfig,
    PortBinding,
    RestartPolicy,
    Ulimit,
)
from wherry.spec.docker.network import EndpointSettings


@pytest.mark.parametrize(
    ("asked_entrypoint", "asked_cmd", "expected"),
    [
        (None, None, (["echo", "ep"], ["c1", "c2"])),
        (None, ["over"], (["echo", "ep"], ["over"])),
        (["cat"], None, (["cat"], None)),
        (["cat"], ["x"], (["cat"], ["x"])),
        ([""], ["x"], (None, ["x"])),
    ],
)
def test_entrypoint_and_command_merge_as_docker_does(
    asked_entrypoint: list[str] | None, asked_cmd: list[str] | None, expected: tuple[object, object]
) -> None:
    image = Config(entrypoint=["echo", "ep"], cmd=["c1", "c2"])
    merged = create.merge_config(ContainerCreate(entrypoint=asked_entrypoint, cmd=asked_cmd), image, hostname="h")
    assert (merged.entrypoint, merged.cmd) == expected


def test_nothing_to_run_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="no command specified"):
        create.merge_config(ContainerCreate(entrypoint=[""]), Config(entrypoint=["echo"], cmd=["x"]), hostname="h")


def test_the_image_completes_what_was_not_asked_for() -> None:
    image = Config(
        user="al",
        working_dir="/w",
        env=["PATH=/p", "A=image"],
        labels={"a": "1", "b": "1"},
        exposed_ports={"80/tcp": {}},
        volumes={"/data": {}},
        stop_signal="SIGQUIT",
    )
    merged = create.merge_config(ContainerCreate(cmd=["x"], env=["A=mine"], labels={"b": "2"}), image, hostname="h")
    assert (merged.user, merged.working_dir, merged.stop_signal, merged.hostname) == ("al", "/w", "SIGQUIT", "h")
    assert merged.env == ["A=mine", "PATH=/p"]
    assert merged.labels == {"a": "1", "b": "2"}
    assert merged.exposed_ports == {"80/tcp": {}}
    assert merged.volumes == {"/data": {}}


@pytest.mark.parametrize("item", ["=x", ""])
def test_a_variable_without_a_name_is_refused(item: str) -> None:
    with pytest.raises(InvalidRequest, match="invalid environment variable"):
        create.merged_env([item], [])


def test_defaults_are_those_that_inspect_shows() -> None:
    host = create.complete_host_config(HostConfig(memory=64 << 20), default_log_options={"max-size": "20m"})
    assert (host.network_mode, host.ipc_mode, host.restart_policy.name, host.shm_size) == ("bridge", "private", "no", 64 << 20)
    assert host.log_config.type == "json-file"
    assert host.log_config.config == {"max-size": "20m"}
    assert host.memory_swap == 128 << 20
    limits = [create.complete_host_config(HostConfig(pids_limit=asked), default_log_options={}).pids_limit for asked in (-1, 0, 7)]
    assert limits == [0, None, 7]  # none; ours, as the Docker CLI sends 0 for what was not asked


@pytest.mark.parametrize(
    ("host", "message"),
    [
        (HostConfig(memory=1024), "Minimum memory limit allowed is 6MB"),
        (HostConfig(memory=64 << 20, memory_swap=32 << 20), "Minimum memoryswap limit should be larger than memory limit, see usage"),
        (HostConfig(nano_cpus=3_000_000_000), "range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available"),
        (HostConfig(cpuset_cpus="99"), "Requested CPUs are not available - requested 99, available: 0-1"),
        (HostConfig(restart_policy=RestartPolicy(name="bogus")), "invalid restart policy: unknown policy 'bogus'"),
        (
            HostConfig(restart_policy=RestartPolicy(name="always", maximum_retry_count=2)),
            "maximum retry count can only be used with 'on-failure'",
        ),
        (HostConfig(auto_remove=True, restart_policy=RestartPolicy(name="always")), "can't create 'AutoRemove' container"),
        (HostConfig(log_config=LogConfig(type="nosuch")), 'plugin "nosuch" not found'),
        (HostConfig(log_config=LogConfig(type="json-file", config={"foo": "1"})), "unknown log opt 'foo' for json-file log driver"),
        (
            HostConfig(device_requests=[DeviceRequest(capabilities=[["gpu"]])]),
            'could not select device driver "" with capabilities: [[gpu]]',
        ),
        (HostConfig(runtime="x"), "unknown or invalid runtime name: x"),
        (HostConfig(cap_add=["bogus"]), 'invalid CapAdd: unknown capability: "CAP_BOGUS"'),
        (HostConfig(security_opt=["bogus=1"]), 'invalid --security-opt 2: "bogus=1"'),
        (HostConfig(ulimits=[Ulimit(name="nofile", soft=200, hard=100)]), "ulimit soft limit must be less than or equal to hard limit"),
        (HostConfig(ulimits=[Ulimit(name="foo", soft=1, hard=1)]), "invalid ulimit type: foo"),
        (HostConfig(sysctls={"kernel.core_pattern": "|/x"}), "is not in a separate kernel namespace"),
        (HostConfig(network_mode="host", sysctls={"net.ipv4.ip_forward": "1"}), "is not allowed in the host network namespace"),
        (HostConfig(cpuset_cpus="1-0"), "Invalid value 1-0 for cpuset cpus: invalid format: 1-0"),
        (HostConfig(nano_cpus=1, cpu_quota=1000), "Conflicting options: Nano CPUs and CPU Quota cannot both be set"),
        (HostConfig(nano_cpus=1, cpu_period=1000), "Conflicting options: Nano CPUs and CPU Period cannot both be set"),
        (HostConfig(cgroup_parent="/a/../../b"), "invalid cgroup parent: /a/../../b"),
        (HostConfig(port_bindings={"x/tcp": [PortBinding()]}), 'invalid port specification: "x"'),
        (HostConfig(extra_hosts=["a"]), 'bad format for add-host: "a"'),
        (HostConfig(extra_hosts=["a:b"]), 'invalid IP address in add-host: "b"'),
        (HostConfig(extra_hosts=["a:[::1]"]), 'invalid IP address in add-host: "[::1]"'),
        (HostConfig(annotations={"": "x"}), "invalid Annotations: the empty string is not permitted as an annotation key"),
        (
            HostConfig(network_mode="container:x", port_bindings={"80/tcp": [PortBinding()]}),
            "conflicting options: port publishing and the container type network mode",
        ),
    ],
)
def test_bad_requests_are_refused_in_dockers_words(host: HostConfig, message: str) -> None:
    with pytest.raises(EngineError) as caught:
        create.check(Config(), create.complete_host_config(host, default_log_options={}), cpus=2)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "host", [HostConfig(storage_opt={"size": "1G"}), HostConfig(cpu_realtime_period=1), HostConfig(cpu_realtime_runtime=1)]
)
def test_what_is_not_supported_is_said_by_name(host: HostConfig) -> None:
    with pytest.raises(NotSupported, match="--"):
        create.check(Config(), create.complete_host_config(host, default_log_options={}), cpus=2)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Config(working_dir="rel"), "the working directory 'rel' is invalid, it needs to be an absolute path"),
        (Config(hostname="a\nb"), "line breaks are not allowed"),
        (Config(stop_signal="BOGUS"), "invalid signal: BOGUS"),
        (Config(healthcheck=Healthcheck(interval=5)), "Interval in Healthcheck cannot be less than 1ms"),
    ],
)
def test_bad_configs_are_refused(config: Config, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        create.check(config, create.complete_host_config(None, default_log_options={}), cpus=2)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["a", "", "..", "a/b", "-x", "a b", "x" * 256])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="Invalid container name"):
        create.checked_name(name)


@pytest.mark.parametrize(("text", "number"), [("SIGTERM", 15), ("term", 15), ("9", 9), ("RTMIN+1", 35), ("SIGRTMAX-1", 63)])
def test_signals_are_named_or_numbered(text: str, number: int) -> None:
    assert create.signal_number(text) == number


@given(st.text(max_size=12))
def test_a_signal_is_a_number_or_refused(text: str) -> None:
    try:
        number = create.signal_number(text)
    except InvalidRequest:
        return
    assert 1 <= number <= 64


def test_the_network_mode_comes_first_among_the_networks() -> None:
    body = ContainerCreate(networking_config=NetworkingConfig(endpoints_config={"b": EndpointSettings(aliases=["x"]), "a": None}))
    assert list(create.endpoints_asked(body, HostConfig(network_mode="a"))) == ["a", "b"]


def test_host_and_a_user_network_together_are_refused() -> None:
    body = ContainerCreate(networking_config=NetworkingConfig(endpoints_config={"b": None}))
    with pytest.raises(InvalidRequest, match="cannot attach both user-defined and non-user-defined network-modes"):
        create.endpoints_asked(body, HostConfig(network_mode="host"))
