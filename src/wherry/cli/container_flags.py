"""The flags that ``run`` and ``create`` share, and the API body they make."""

from __future__ import annotations

from wherry.cli import attachments, environment, mounts, ports, resources
from wherry.cli.flags import Failure, Flag, parse_swap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.cli.flags import Invocation

STREAMS = ("stdin", "stdout", "stderr")
WINDOWS = "it exists on Windows only"


def _stream(text: str) -> str:
    if text.lower() not in STREAMS:
        raise ValueError("valid streams are STDIN, STDOUT and STDERR")
    return text.lower()


def _address(text: str) -> str:
    if not ports.is_address(text.strip()):
        raise ValueError(f"IP address is not correctly formatted: {text}")
    return text.strip()


def _search_domain(text: str) -> str:
    text = text.strip()
    labels = text.rstrip(".").split(".")
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
    if text == "." or all(label and set(label) <= allowed and label[0] != "-" and label[-1] != "-" for label in labels):
        return text
    raise ValueError(f"{text} is not a valid domain")


def _extra_host(text: str) -> str:
    name, separator, address = text.partition("=") if "=" in text else text.partition(":")
    if not separator or not name:
        raise ValueError(f'bad format for add-host: "{text}"')
    address = address[1:-1] if address.startswith("[") and address.endswith("]") else address
    if address != "host-gateway" and not ports.is_address(address):
        raise ValueError(f'invalid IP address in add-host: "{address}"')
    return f"{name}:{address}"


def _capability(name: str) -> str:
    name = name.strip().upper()
    return name if name == "ALL" or name.startswith("CAP_") else f"CAP_{name}"


def _link(text: str) -> str:
    name, _, alias = text.partition(":")
    if not text:
        raise ValueError("empty string specified for links")
    if ":" in alias:
        raise ValueError(f"bad format for links: {text}")
    return f"{name}:{alias or name.rpartition('/')[2]}"


FLAGS = (
    Flag("add-host", "list", "Extra line NAME:IP for /etc/hosts; the word host-gateway means the host", parse=_extra_host),
    Flag("annotation", "map", "OCI annotation KEY=VALUE for the runtime"),
    Flag("attach", "list", "Streams to connect: stdin, stdout, stderr", short="a", parse=_stream),
    Flag("blkio-weight", "uint16", "Relative block IO weight, 10 to 1000; 0 turns it off"),
    Flag("blkio-weight-device", "list", "Block IO weight of one device, DEVICE:WEIGHT", parse=resources.weight_device),
    Flag("cap-add", "list", "Add a Linux capability, or ALL"),
    Flag("cap-drop", "list", "Drop a Linux capability, or ALL"),
    Flag("cgroup-parent", "string", "Parent cgroup of the container's"),
    Flag("cgroupns", "string", "Cgroup namespace: host or private"),
    Flag("cidfile", "string", "Write the container's id to a file that does not exist"),
    Flag("cpu-count", "int", hidden=True, refused=WINDOWS),
    Flag("cpu-percent", "int", hidden=True, refused=WINDOWS),
    Flag("cpu-period", "int", "CFS period in microseconds (1000 to 1000000)"),
    Flag("cpu-quota", "int", "CFS quota in microseconds per period (at least 1000)"),
    Flag("cpu-rt-period", "int", "Realtime period in microseconds"),
    Flag("cpu-rt-runtime", "int", "Realtime runtime in microseconds"),
    Flag("cpu-shares", "int", "Relative CPU weight", short="c"),
    Flag("cpus", "decimal", "Number of CPUs, such as 1.5"),
    Flag("cpuset-cpus", "string", "CPUs allowed (0-3, 0,1)"),
    Flag("cpuset-mems", "string", "NUMA nodes allowed (0-3, 0,1)"),
    Flag("device", "list", "Host device HOST[:INSIDE[:rwm]], or a CDI name"),
    Flag("device-cgroup-rule", "list", "Rule for the devices cgroup, such as 'c 42:* rmw'", parse=resources.device_rule),
    Flag("device-read-bps", "list", "Bytes per second read from a device, DEVICE:RATE", parse=resources.byte_rate),
    Flag("device-read-iops", "list", "Reads per second from a device, DEVICE:RATE", parse=resources.operation_rate),
    Flag("device-write-bps", "list", "Bytes per second written to a device, DEVICE:RATE", parse=resources.byte_rate),
    Flag("device-write-iops", "list", "Writes per second to a device, DEVICE:RATE", parse=resources.operation_rate),
    Flag("disable-content-trust", "bool", "Skip image verification", default=True, hidden=True, refused="Notary v1 is gone"),
    Flag("dns", "list", "Name server of the container", parse=_address),
    Flag("dns-opt", "list", alias_of="dns-option"),
    Flag("dns-option", "list", "Option for resolv.conf"),
    Flag("dns-search", "list", "Search domain; . for none", parse=_search_domain),
    Flag("domainname", "string", "NIS domain name of the container"),
    Flag("entrypoint", "string", "Program to run in place of the image's ENTRYPOINT"),
    Flag("env", "list", "Variable KEY=VALUE; KEY alone is taken from here", short="e", parse=environment.variable),
    Flag("env-file", "list", "File of KEY=VALUE lines"),
    Flag("expose", "list", "Port or range to expose without publishing it"),
    Flag("gpus", "gpu-request", "GPU devices: all, a number, or device=ID", parse=resources.gpus),
    Flag("group-add", "list", "Supplementary group"),
    Flag("health-cmd", "string", "Shell command that tells whether the container is healthy"),
    Flag("health-interval", "duration", "Pause between probes"),
    Flag("health-retries", "int", "Failures in a row that mean unhealthy"),
    Flag("health-start-interval", "duration", "Pause between probes during the start period"),
    Flag("health-start-period", "duration", "Time in which failures do not count"),
    Flag("health-timeout", "duration", "Longest time of one probe"),
    Flag("hostname", "string", "Host name of the container", short="h"),
    Flag("init", "bool", "Run a reaper as process 1 that passes signals on"),
    Flag("interactive", "bool", "Keep standard input open", short="i"),
    Flag("io-maxbandwidth", "bytes", hidden=True, refused=WINDOWS),
    Flag("io-maxiops", "int", hidden=True, refused=WINDOWS),
    Flag("ip", "string", "IPv4 address on a user-defined network"),
    Flag("ip6", "string", "IPv6 address on a user-defined network"),
    Flag("ipc", "string", "IPC namespace: none, private, shareable, host, container:NAME"),
    Flag("isolation", "string", "Isolation of the container: default"),
    Flag("kernel-memory", "bytes", hidden=True),  # kernels have no separate limit for it any more: passed over, as by Docker
    Flag("label", "list", "Label KEY=VALUE", short="l", parse=environment.label),
    Flag("label-file", "list", "File of labels, one a line"),
    Flag("link", "list", "Make another container known by a name, NAME[:ALIAS]", parse=_link),
    Flag("link-local-ip", "list", "Link-local address of the container", parse=_address),
    Flag("log-driver", "string", "Logging driver"),
    Flag("log-opt", "list", "Option of the logging driver, KEY=VALUE"),
    Flag("mac-address", "string", "MAC address of the container"),
    Flag("memory", "bytes", "Memory limit (b, k, m, g)", short="m"),
    Flag("memory-reservation", "bytes", "Soft memory limit"),
    Flag("memory-swap", "bytes", "Limit of memory and swap together; -1 for unlimited swap", parse=parse_swap),
    Flag("memory-swappiness", "int", "How readily memory is swapped, 0 to 100", default=-1),
    Flag("mount", "mount", "Mount: type=bind|volume|tmpfs|image,src=..,dst=..,readonly", parse=mounts.mount),
    Flag("name", "string", "Name of the container"),
    Flag("net", "network", alias_of="network", parse=attachments.network),
    Flag("net-alias", "list", alias_of="network-alias"),
    Flag("network", "network", "Network to connect to; host, none, container:NAME; or name=..,alias=..,ip=..", parse=attachments.network),
    Flag("network-alias", "list", "Name of the container on its network"),
    Flag("no-healthcheck", "bool", "Turn the image's HEALTHCHECK off"),
    Flag("oom-kill-disable", "bool", "Keep the OOM killer away"),
    Flag("oom-score-adj", "int", "Preference of the host's OOM killer (-1000 to 1000)"),
    Flag("pid", "string", "PID namespace: host or container:NAME"),
    Flag("pids-limit", "int", "Most processes; -1 for no limit"),
    Flag("platform", "string", "Platform of the image, os/arch[/variant]"),
    Flag("privileged", "bool", "Give the container all rights on the host's kernel"),
    Flag("publish", "list", "Publish a port: [[IP:]HOST:]CONTAINER[/PROTO]", short="p"),
    Flag("publish-all", "bool", "Publish all exposed ports to random ports", short="P"),
    Flag("pull", "string", "When to pull the image: always, missing, never", default="missing"),
    Flag("quiet", "bool", "Show no progress of pulling", short="q"),
    Flag("read-only", "bool", "Mount the container's root read-only"),
    Flag("restart", "string", "When to start again: no, always, unless-stopped, on-failure[:N]", default="no"),
    Flag("rm", "bool", "Remove the container and its anonymous volumes when it ends"),
    Flag("runtime", "string", "OCI runtime to use"),
    Flag("security-opt", "list", "Security option"),
    Flag("shm-size", "bytes", "Size of /dev/shm"),
    Flag("stop-signal", "string", "Signal that stops the container"),
    Flag("stop-timeout", "int", "Seconds from the stop signal to SIGKILL"),
    Flag("storage-opt", "list", "Option of the storage driver"),
    Flag("sysctl", "map", "Kernel setting KEY=VALUE of the container's namespaces", parse=resources.sysctl),
    Flag("tmpfs", "list", "Mount a tmpfs, PATH[:OPTIONS]", parse=mounts.tmpfs),
    Flag("tty", "bool", "Give the container a terminal", short="t"),
    Flag("ulimit", "ulimit", "Resource limit NAME=SOFT[:HARD]", parse=resources.ulimit),
    Flag("use-api-socket", "bool", hidden=True, refused="mount the socket with -v where it is wanted"),
    Flag("user", "string", "User (and group), NAME|UID[:GROUP|GID]", short="u"),
    Flag("userns", "string", "User namespace: host"),
    Flag("uts", "string", "UTS namespace: host"),
    Flag("volume", "list", "Bind a directory or volume, [SOURCE:]PATH[:OPTIONS]", short="v"),
    Flag("volume-driver", "string", "Driver of volumes made here"),
    Flag("volumes-from", "list", "Mount another container's volumes, NAME[:ro]"),
    Flag("workdir", "string", "Working directory", short="w"),
)


def create_body(invocation: Invocation) -> dict[str, Any]:
    """What POST /containers/create takes.  Raises Failure."""
    try:
        body, host = _config(invocation), _host_config(invocation)
        bindings = ports.publish(invocation.texts("publish"))
        exposed = [port for word in invocation.texts("expose") for port in ports.expose(word)]
    except ValueError as error:
        raise Failure(str(error), 125) from None
    if bindings or exposed:
        body["ExposedPorts"] = {port: {} for port in (*bindings, *exposed)}
    host["PortBindings"] = bindings
    mode, networks = attachments.endpoints(invocation)
    host["NetworkMode"] = mode
    body["HostConfig"] = host
    body["NetworkingConfig"] = {"EndpointsConfig": networks}
    return body


def _config(invocation: Invocation) -> dict[str, Any]:
    image, *words = invocation.arguments
    attached = invocation.texts("attach")
    everything = not attached
    open_stdin = invocation.flag("interactive")
    stdin = "stdin" in attached or open_stdin
    env = environment.variables(invocation.texts("env-file"), invocation.texts("env"))
    body: dict[str, Any] = {
        "Hostname": invocation.text("hostname"),
        "Domainname": invocation.text("domainname"),
        "User": invocation.text("user"),
        "AttachStdin": stdin,
        "AttachStdout": everything or "stdout" in attached,
        "AttachStderr": everything or "stderr" in attached,
        "Tty": invocation.flag("tty"),
        "OpenStdin": open_stdin,
        "StdinOnce": open_stdin and stdin,
        "Env": environment.with_proxies(env, invocation.program) or None,
        "Cmd": words or None,
        "Image": image,
        "Volumes": {path: {} for _, path in map(mounts.volume, invocation.texts("volume")) if path},
        "WorkingDir": invocation.text("workdir"),
        "Entrypoint": [invocation.text("entrypoint")] if "entrypoint" in invocation.given else None,
        "OnBuild": None,
        "Labels": environment.labels(invocation.texts("label-file"), invocation.texts("label")),
    }
    if health := _healthcheck(invocation):
        body["Healthcheck"] = health
    if invocation.text("stop-signal"):
        body["StopSignal"] = invocation.text("stop-signal")
    if "stop-timeout" in invocation.given:
        body["StopTimeout"] = invocation.number("stop-timeout")
    return body


def _healthcheck(invocation: Invocation) -> dict[str, Any]:
    command = invocation.text("health-cmd")
    numbers = {
        "Interval": invocation.number("health-interval"),
        "Timeout": invocation.number("health-timeout"),
        "StartPeriod": invocation.number("health-start-period"),
        "StartInterval": invocation.number("health-start-interval"),
        "Retries": invocation.number("health-retries"),
    }
    if invocation.flag("no-healthcheck"):
        if command or any(numbers.values()):
            raise Failure("--no-healthcheck conflicts with --health-* options", 125)
        return {"Test": ["NONE"]}
    for name, value in numbers.items():
        if value < 0:
            flag = {"StartPeriod": "start-period", "StartInterval": "start-interval"}.get(name, name.lower())
            raise Failure(f"--health-{flag} cannot be negative", 125)
    made: dict[str, Any] = {name: value for name, value in numbers.items() if value}
    if command:
        made["Test"] = ["CMD-SHELL", command]
    return made


def _host_config(invocation: Invocation) -> dict[str, Any]:
    text, texts, number, flag = invocation.text, invocation.texts, invocation.number, invocation.flag
    _check_modes(invocation)
    security, masked, readonly = _security(texts("security-opt"))
    restart = resources.restart_policy(text("restart"))
    if flag("rm") and restart["Name"] not in ("", "no"):
        raise Failure("conflicting options: cannot specify both --restart and --rm", 125)
    devices = texts("device")
    cdi = [word for word in devices if resources.is_cdi_name(word)]
    requests = [*invocation.value("gpus"), *([{"Driver": "cdi", "Count": 0, "DeviceIDs": cdi}] if cdi else [])]
    host: dict[str, Any] = {
        "Binds": [bind for bind, _ in map(mounts.volume, texts("volume")) if bind] or None,
        "ContainerIDFile": text("cidfile"),
        "LogConfig": {"Type": text("log-driver"), "Config": _log_options(text("log-driver"), texts("log-opt"))},
        "RestartPolicy": restart,
        "AutoRemove": flag("rm"),
        "VolumeDriver": text("volume-driver"),
        "VolumesFrom": texts("volumes-from") or None,
        "ConsoleSize": [0, 0],
        "CapAdd": sorted({_capability(name) for name in texts("cap-add")}) or None,
        "CapDrop": sorted({_capability(name) for name in texts("cap-drop")}) or None,
        "CgroupnsMode": text("cgroupns"),
        "Dns": texts("dns"),
        "DnsOptions": texts("dns-option"),
        "DnsSearch": texts("dns-search"),
        "ExtraHosts": texts("add-host") or None,
        "GroupAdd": texts("group-add") or None,
        "IpcMode": text("ipc"),
        "Cgroup": "",
        "Links": texts("link") or None,
        "OomScoreAdj": number("oom-score-adj"),
        "PidMode": text("pid"),
        "Privileged": flag("privileged"),
        "PublishAllPorts": flag("publish-all"),
        "ReadonlyRootfs": flag("read-only"),
        "SecurityOpt": security or None,
        "UTSMode": text("uts"),
        "UsernsMode": text("userns"),
        "ShmSize": number("shm-size"),
        "Isolation": text("isolation"),
        **_resources(invocation),
        "Devices": [resources.device_mapping(resources.device(word)) for word in devices if word not in cdi],
        "DeviceRequests": requests or None,
        "MaskedPaths": masked,
        "ReadonlyPaths": readonly,
    }
    optional = {
        "Annotations": environment.pairs(texts("annotation")),
        "StorageOpt": resources.storage_options(texts("storage-opt")),
        "Sysctls": environment.pairs(texts("sysctl")),
        "Tmpfs": dict(invocation.value("tmpfs")),
        "Mounts": list(invocation.value("mount")),
        "Runtime": text("runtime"),
    }
    host.update({name: value for name, value in optional.items() if value})
    if "init" in invocation.given:
        host["Init"] = flag("init")
    return host


def _resources(invocation: Invocation) -> dict[str, Any]:
    number, text = invocation.number, invocation.text
    swappiness = invocation.number("memory-swappiness")
    if "memory-swappiness" in invocation.given and not -1 <= swappiness <= 100:
        raise Failure(f"invalid value: {swappiness}. Valid memory swappiness range is 0-100", 125)
    return {
        "CpuShares": number("cpu-shares"),
        "Memory": number("memory"),
        "NanoCpus": number("cpus"),
        "CgroupParent": text("cgroup-parent"),
        "BlkioWeight": number("blkio-weight"),
        "BlkioWeightDevice": list(invocation.value("blkio-weight-device")),
        "BlkioDeviceReadBps": list(invocation.value("device-read-bps")),
        "BlkioDeviceWriteBps": list(invocation.value("device-write-bps")),
        "BlkioDeviceReadIOps": list(invocation.value("device-read-iops")),
        "BlkioDeviceWriteIOps": list(invocation.value("device-write-iops")),
        "CpuPeriod": number("cpu-period"),
        "CpuQuota": number("cpu-quota"),
        "CpuRealtimePeriod": number("cpu-rt-period"),
        "CpuRealtimeRuntime": number("cpu-rt-runtime"),
        "CpusetCpus": text("cpuset-cpus"),
        "CpusetMems": text("cpuset-mems"),
        "DeviceCgroupRules": invocation.texts("device-cgroup-rule") or None,
        "MemoryReservation": number("memory-reservation"),
        "MemorySwap": number("memory-swap"),
        "MemorySwappiness": swappiness,
        "OomKillDisable": invocation.flag("oom-kill-disable"),
        "PidsLimit": number("pids-limit"),
        "Ulimits": [limit for _, limit in sorted({limit["Name"]: limit for limit in invocation.value("ulimit")}.items())],
    }


def _check_modes(invocation: Invocation) -> None:
    allowed = {"uts": ("", "host"), "userns": ("", "host"), "cgroupns": ("", "host", "private"), "pid": ("", "host")}
    for name, values in allowed.items():
        value = invocation.text(name)
        if value not in values and not (name == "pid" and value.startswith("container:") and len(value) > 10):
            kind = {"userns": "USER", "cgroupns": "CGROUP"}.get(name, name.upper())
            raise Failure(f"--{name}: invalid {kind} mode", 125)


def _log_options(driver: str, words: list[str]) -> dict[str, str]:
    if driver == "none" and words:
        raise Failure(f"invalid logging opts for driver {driver}", 125)
    return environment.pairs(words)


def _security(words: list[str]) -> tuple[list[str], list[str] | None, list[str] | None]:
    """The options as the daemon takes them; a seccomp profile is read here.  And the paths to mask and to protect."""
    found: list[str] = []
    masked: list[str] | None = None
    for word in words:
        name, separator, value = word.partition("=")
        if not separator:
            name, separator, value = word.partition(":")
        if not (separator and value) and word != "no-new-privileges":
            raise ValueError(f'Invalid --security-opt: "{word}"')
        if name == "systempaths" and value == "unconfined":
            masked = []
        elif name == "seccomp" and value not in ("unconfined", "builtin"):
            found.append("seccomp=" + _seccomp_profile(value))
        else:
            found.append(word)
    return found, masked, None if masked is None else []


def _seccomp_profile(path: str) -> str:
    from wherry.client import jsontext

    try:
        with open(path, "rb") as file:
            return jsontext.dump(jsontext.parse(file.read()))
    except OSError as error:
        raise ValueError(f"opening seccomp profile ({path}) failed: open {path}: {(error.strerror or '').lower()}") from None
    except ValueError as error:
        raise ValueError(f"compacting json for seccomp profile ({path}) failed: {error}") from None
