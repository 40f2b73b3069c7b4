"""``wherry version``."""

from __future__ import annotations

import sys

from wherry.cli.flags import Command, Flag, Invocation
from wherry.cli.program import VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def run(invocation: Invocation) -> int:
    program = invocation.program
    server: dict[str, Any] | None = None
    problem: Exception | None = None
    from wherry.client.engine import ApiError
    from wherry.client.http import ConnectError

    try:
        engine = program.engine
        server = engine.get("/version")
        api_version = engine.version
    except (ApiError, ConnectError) as error:
        from wherry.client.engine import API_VERSION

        problem, api_version = error, API_VERSION
    client = _client(api_version, program.context_name)
    template = invocation.text("format")
    if template:
        from wherry.cli.output import print_formatted

        print_formatted(template, {"Client": client, "Server": server}, _view, "version")
    else:
        sys.stdout.write(_text(client, server))
    if problem is not None:
        raise problem
    return 0


def _view(value: dict[str, Any]) -> Any:
    """Docker's structs, whose fields have other names than their JSON."""
    from wherry.cli.template_values import NIL_POINTER, Record

    client, server = value["Client"], value["Server"]
    shown = Record(client, "system.clientVersion", optional={"APIVersion": client["ApiVersion"]})
    answered: Any = NIL_POINTER
    if server is not None:
        details = {"APIVersion": server.get("ApiVersion", ""), "BuildTime": "", "GitCommit": "", "Experimental": False}
        answered = Record(server, "*types.Version", optional=details)
    return Record({"Client": shown, "Server": answered}, "system.versionInfo")


def _client(api_version: str, context: str) -> dict[str, Any]:
    python = ".".join(map(str, sys.version_info[:3]))
    return {
        "Platform": {"Name": ""},
        "Version": VERSION,
        "ApiVersion": api_version,
        "DefaultAPIVersion": "1.51",
        "GitCommit": "",
        "GoVersion": f"python{python}",
        "Os": "linux",
        "Arch": _architecture(),
        "BuildTime": "",
        "Context": context,
    }


def _architecture() -> str:
    import os

    machine = os.uname().machine
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def _text(client: dict[str, Any], server: dict[str, Any] | None) -> str:
    lines = [
        "Client:",
        f" Version:           {client['Version']}",
        f" API version:       {_api_version(client)}",
        f" Python version:    {client['GoVersion'].removeprefix('python')}",
        f" OS/Arch:           {client['Os']}/{client['Arch']}",
        f" Context:           {client['Context']}",
    ]
    if server is not None:
        name = (server.get("Platform") or {}).get("Name", "")
        lines += ["", f"Server: {name}".rstrip() if name else "Server:"]
        components = server.get("Components") or [{"Name": "Engine", "Version": server.get("Version", ""), "Details": server}]
        for component in components:
            lines += _component(component)
    return "\n".join(lines) + "\n"


def _api_version(client: dict[str, Any]) -> str:
    used, default = client["ApiVersion"], client["DefaultAPIVersion"]
    return str(used) if used == default else f"{used} (downgraded from {default})"


def _component(component: dict[str, Any]) -> list[str]:
    details = component.get("Details") or {}
    lines = [f" {component['Name']}:", f"  Version:          {component.get('Version', '')}"]
    if component["Name"] != "Engine":
        return lines + [f"  {name + ':':<17} {details[name]}" for name in sorted(details)]
    lines.append(f"  API version:      {details.get('ApiVersion', '')} (minimum version {details.get('MinAPIVersion', '')})")
    shown = (("GoVersion", "Go version"), ("GitCommit", "Git commit"), ("BuildTime", "Built"))
    lines += [f"  {label + ':':<17} {details[key]}" for key, label in shown if details.get(key)]
    lines.append(f"  OS/Arch:          {details.get('Os', '')}/{details.get('Arch', '')}")
    lines.append(f"  Experimental:     {details.get('Experimental', 'false')}")
    return lines


COMMAND = Command(
    "[OPTIONS]",
    "Show the version of client and engine",
    run,
    flags=(Flag("format", "string", "Go template, or json", short="f"),),
    maximum=0,
)
