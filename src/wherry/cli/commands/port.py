"""``wherry port``."""

from __future__ import annotations

from wherry.cli.flags import Command, Failure, Invocation
from wherry.cli.ports import order, split_protocol
from wherry.client.engine import container_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def run(invocation: Invocation) -> int:
    name, *wanted = invocation.arguments
    found: dict[str, Any] = invocation.program.engine.get(container_path(name, "json"))["NetworkSettings"]["Ports"] or {}
    if wanted:
        port, protocol = split_protocol(wanted[0])
        if not port.isdecimal():
            raise Failure(f'Error: invalid port ({wanted[0]}): strconv.ParseUint: parsing "{port}": invalid syntax')
        bindings = found.get(f"{port}/{protocol}")
        if not bindings:
            raise Failure(f"Error: No public port '{port}{'' if protocol == 'tcp' else '/' + protocol}' published for {name}")
        lines = [_address(binding) for binding in bindings]
    else:
        lines = [f"{port} -> {_address(binding)}" for port in sorted(found, key=order) for binding in found[port] or ()]
    for line in lines:
        print(line)
    return 0


def _address(binding: dict[str, str]) -> str:
    host = binding["HostIp"]
    return f"[{host}]:{binding['HostPort']}" if ":" in host else f"{host}:{binding['HostPort']}"


COMMAND = Command(
    "CONTAINER [PRIVATE_PORT[/PROTO]]", "List port mappings or a specific mapping for the container", run, minimum=1, maximum=2
)
