"""``wherry info``."""

from __future__ import annotations

import sys

from wherry.cli.flags import Command, Flag, Invocation
from wherry.cli.output import binary_size
from wherry.cli.program import VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def run(invocation: Invocation) -> int:
    program = invocation.program
    client = {"Version": VERSION, "Context": program.context_name, "Debug": bool(program.values["debug"]), "Plugins": []}
    layout = invocation.text("format")
    if layout:
        from wherry.cli.output import print_formatted

        print_formatted(layout, {**program.engine.get("/info"), "ClientInfo": client}, _view)
        return 0
    sys.stdout.write(f"Client:\n Version:    {VERSION}\n Context:    {client['Context']}\n Debug Mode: {_bool(client['Debug'])}\n\n")
    sys.stdout.write("Server:\n")
    sys.stdout.flush()
    found = program.engine.get("/info")
    sys.stdout.write("".join(f" {line}\n" for line in server_lines(found)) + "\n")
    sys.stdout.flush()
    for warning in found.get("Warnings") or ():
        print(warning, file=sys.stderr)
    return 0


def _view(found: dict[str, Any]) -> Any:
    """Docker's struct, some of whose fields have other names than their JSON."""
    from wherry.cli.template_values import NIL_LIST
    from wherry.cli.typed import typed

    view = typed(found)
    view.go_type = "system.dockerInfo"
    renamed = {go: view[name] for go, name in _GO_NAMES.items() if name in view}
    view.optional = {"ServerErrors": NIL_LIST, "ClientErrors": NIL_LIST, **view.optional, **renamed}
    return view


_GO_NAMES = {"HTTPProxy": "HttpProxy", "HTTPSProxy": "HttpsProxy", "CPUCfsPeriod": "CpuCfsPeriod", "CPUCfsQuota": "CpuCfsQuota"}


def server_lines(found: dict[str, Any]) -> list[str]:
    """The daemon's facts, one a line, in Docker's order; a fact that is not there has no line."""
    lines = [f"Containers: {found['Containers']}"]
    lines += [f" {name}: {found['Containers' + name]}" for name in ("Running", "Paused", "Stopped")]
    lines += [f"Images: {found['Images']}", *_present(found, ("Server Version", "ServerVersion"), ("Storage Driver", "Driver"))]
    lines += [f" {name}: {value}" for name, value in found.get("DriverStatus") or ()]
    lines += _present(found, ("Logging Driver", "LoggingDriver"), ("Cgroup Driver", "CgroupDriver"), ("Cgroup Version", "CgroupVersion"))
    plugins = found.get("Plugins") or {}
    lines.append("Plugins:")
    lines += [f" {name}: {' '.join(plugins[name])}" for name in ("Volume", "Network", "Authorization", "Log") if plugins.get(name)]
    if found.get("CDISpecDirs"):
        lines += ["CDI spec directories:", *(f" {path}" for path in found["CDISpecDirs"])]
    lines.append(f"Swarm: {(found.get('Swarm') or {}).get('LocalNodeState') or 'inactive'}")
    if found.get("Runtimes"):
        lines.append(f"Runtimes: {' '.join(sorted(found['Runtimes']))}")
    lines += _present(found, ("Default Runtime", "DefaultRuntime"), ("Init Binary", "InitBinary"))
    for name in ("containerd", "runc", "init"):
        if version := (found.get(f"{name.capitalize()}Commit") or {}).get("ID"):
            lines.append(f"{name} version: {version}")
    lines += _security(found.get("SecurityOptions") or ())
    lines += _present(
        found,
        ("Kernel Version", "KernelVersion"),
        ("Operating System", "OperatingSystem"),
        ("OSType", "OSType"),
        ("Architecture", "Architecture"),
        ("CPUs", "NCPU"),
    )
    lines += [f"Total Memory: {binary_size(found.get('MemTotal') or 0)}"]
    lines += _present(found, ("Name", "Name"), ("ID", "ID"), ("Docker Root Dir", "DockerRootDir"))
    lines.append(f"Debug Mode: {_bool(found.get('Debug'))}")
    lines += _present(found, ("HTTP Proxy", "HttpProxy"), ("HTTPS Proxy", "HttpsProxy"), ("No Proxy", "NoProxy"))
    if found.get("Labels"):
        lines += ["Labels:", *(f" {label}" for label in found["Labels"])]
    lines.append(f"Experimental: {_bool(found.get('ExperimentalBuild'))}")
    registries = found.get("RegistryConfig") or {}
    hosts = [host for host, facts in sorted((registries.get("IndexConfigs") or {}).items()) if not facts.get("Secure", True)]
    if hosts or registries.get("InsecureRegistryCIDRs"):
        lines += ["Insecure Registries:", *(f" {host}" for host in (*hosts, *(registries.get("InsecureRegistryCIDRs") or ())))]
    if registries.get("Mirrors"):
        lines += ["Registry Mirrors:", *(f" {mirror}" for mirror in registries["Mirrors"])]
    lines.append(f"Live Restore Enabled: {_bool(found.get('LiveRestoreEnabled'))}")
    return lines


def _present(found: dict[str, Any], *fields: tuple[str, str]) -> list[str]:
    return [f"{label}: {found[key]}" for label, key in fields if found.get(key) not in (None, "")]


def _security(options: Any) -> list[str]:
    lines = []
    for option in options:
        facts = dict(part.partition("=")[::2] for part in option.split(","))
        lines.append(f" {facts.pop('name', option)}")
        lines += [f"  {key.capitalize()}: {value}" for key, value in facts.items()]
    return ["Security Options:", *lines] if lines else []


def _bool(value: object) -> str:
    return "true" if value else "false"


COMMAND = Command(
    "[OPTIONS]",
    "Display system-wide information",
    run,
    flags=(Flag("format", "string", "json, or a Go template", short="f"),),
    maximum=0,
)
