"""How a container finds others: its names on its networks, the resolver at 127.0.0.11, and its resolv.conf."""

from __future__ import annotations

import os
from collections.abc import Sequence
from ipaddress import IPv4Address

from wherry.networks import files, namespace
from wherry.networks.names import Directory, Member, View, link_of
from wherry.networks.record import SandboxRecord
from wherry.networks.resolver import Resolver
from wherry.networks.sandbox import Sandbox

_MOST_OF_A_RESOLV_CONF = 1 << 16


class Naming:
    """Names of all containers of a daemon; owns the resolver."""

    def __init__(self, resolv_conf_path: str) -> None:
        """``resolv_conf_path``: the host's own."""
        self._resolv_conf_path = resolv_conf_path
        self._directory = Directory()
        self._resolver = Resolver(self._directory)

    def start(self) -> None:
        self._resolver.start()

    def close(self) -> None:
        self._resolver.close()

    def serve(self, sandbox: Sandbox) -> None:
        """Answer at 127.0.0.11 once the container is on a user-defined network."""
        named = any(one.names for one in sandbox.record.endpoints)
        if sandbox.namespace is None or not named or (sandbox.internal_resolver and self._directory.view(sandbox.container_id) is not None):
            return
        udp, tcp = namespace.inside(sandbox.namespace.fd, lambda: namespace.resolver_sockets(files.EMBEDDED_RESOLVER))
        self._resolver.serve(sandbox.container_id, udp, tcp)
        sandbox.internal_resolver = True

    def publish(self, sandbox: Sandbox) -> None:
        """Let others on its networks find it, and it them."""
        record = sandbox.record
        named = [one for one in record.endpoints if one.names]
        for one in named:
            member = Member(container_id=record.container_id, network=one.network, names=tuple(one.names), address=IPv4Address(one.address))
            self._directory.join(one.network_id, member)
        if not named and not sandbox.internal_resolver:
            return
        open_networks = any(not one.internal for one in record.endpoints)
        servers = tuple(record.dns) or files.parse_resolv_conf(self._host_resolv_conf()).nameservers
        links = {alias: name for one in named for name, alias in map(link_of, one.links)} | record.links
        networks = tuple(one.network_id for one in named)
        view = View(networks=networks, links=links, upstream=servers if open_networks else ())
        self._directory.show(record.container_id, view)

    def leave(self, network_id: str, container_id: str) -> None:
        self._directory.leave(network_id, container_id)

    def rename(self, container_id: str, old: str, new: str) -> None:
        self._directory.rename(container_id, old, new)

    def withdraw(self, record: SandboxRecord) -> None:
        """Its names are nobody's, and nobody answers it."""
        for endpoint in record.endpoints:
            self._directory.leave(endpoint.network_id, record.container_id)
        self._directory.hide(record.container_id)
        self._resolver.forget(record.container_id)

    def resolv_conf(self, sandbox: Sandbox, *, dns: Sequence[str] = (), search: Sequence[str] = (), options: Sequence[str] = ()) -> str:
        """The container's resolv.conf; with the host's network and no wishes it is the host's own."""
        override = files.ResolverFile(nameservers=tuple(dns), search=tuple(search), options=tuple(options))
        text = self._host_resolv_conf()
        if sandbox.namespace is None and not (dns or search or options):
            return text
        host = files.parse_resolv_conf(text)
        return files.internal_resolv_conf(host, override) if sandbox.internal_resolver else files.resolv_conf(host, override)

    def _host_resolv_conf(self) -> str:
        try:
            fd = os.open(self._resolv_conf_path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return ""
        try:
            return os.read(fd, _MOST_OF_A_RESOLV_CONF).decode(errors="replace")
        except OSError:
            return ""
        finally:
            os.close(fd)
