"""The daemon's configuration: one frozen value, made by ``daemon.py`` from flags and environment and handed down."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from wherry.spec.certificates import DIRECTORIES
from wherry.spec.proxies import Proxies

SECURITY_PROFILES = ("default", "strict")
RUNTIME = "wherry"  # the name of our own
INITS = ("docker-init", "tini-static", "catatonit")  # static programs that live in any image, called as INIT -- PROGRAM
SECCOMP_BUILTIN, SECCOMP_UNCONFINED = "builtin", "unconfined"
SELF_TESTS = ("refuse", "warn")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where the daemon keeps things and what it calls what it makes in the kernel.

    Two daemons with different ``data_root`` live side by side: every kernel object carries ``tag``, a short name derived from it.
    """

    data_root: str = "/var/lib/wherry"
    run_root: str = "/run/wherry"
    hosts: tuple[str, ...] = ("unix:///run/wherry/wherry.sock",)
    snapshotter: str = ""  # "", erofs, overlay, vfs: empty chooses
    address_pools: tuple[tuple[str, int], ...] = (("172.17.0.0/12", 16), ("192.168.0.0/16", 20))  # base, prefix length of each network
    insecure_registries: tuple[str, ...] = ()
    registry_mirrors: tuple[str, ...] = ()  # URL for Docker Hub, REGISTRY=URL for another
    token_servers: tuple[str, ...] = ()  # REGISTRY=HOST: told the registry's credentials, for a token
    certificate_dirs: tuple[str, ...] = DIRECTORIES  # HOST[:PORT]/{*.crt,*.cert,*.key} below them
    proxies: Proxies = field(default_factory=Proxies)  # to registries, and to what ADD and import fetch
    registry_connect_s: float = 10.0
    registry_idle_s: float = 60.0  # a registry that says nothing for so long is given up, or asked again
    download_attempts: int = 5
    concurrent_downloads: int = 3  # of one pull
    concurrent_uploads: int = 5  # of one push
    default_log_options: dict[str, str] = field(default_factory=lambda: {"max-size": "20m", "max-file": "5"})
    docker_user: bool = True  # name our bridges in Docker's chain DOCKER-USER, where it exists
    default_ip: str = ""  # host address for published ports; empty: all
    runtimes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # others than ours: name -> program and its arguments
    default_runtime: str = RUNTIME
    init_path: str = ""  # the program of --init for other runtimes than ours; empty: one of `INITS` in PATH
    security_profile: str = "default"  # or strict: what a container gets that says nothing itself
    no_new_privileges: bool = False  # likewise
    seccomp_profile: str = SECCOMP_BUILTIN  # likewise: that, unconfined, or the file it came from
    seccomp: Mapping[str, Any] | None = None  # what is in the file
    self_test: str = "refuse"  # what to do when containers are weaker than configured: refuse to serve, or warn
    ephemeral: bool = False  # at its end the daemon takes its containers, bridges and tables out of the machine
    debug: bool = False

    def monitor_socket(self, ident: str) -> str:
        """Where the monitor of a container listens; a socket's path may have 107 bytes, so not the whole id."""
        return f"{self.run_root}/monitors/{ident[:24]}"

    def bundle(self, ident: str) -> str:
        """Where another runtime's bundle of a container lies while it runs."""
        return f"{self.run_root}/bundles/{ident}"

    @property
    def default_seccomp(self) -> Mapping[str, Any] | bool:
        """The profile of who names none: True for the builtin one, False for none."""
        return self.seccomp_profile == SECCOMP_BUILTIN if self.seccomp is None else self.seccomp

    @property
    def tag(self) -> str:
        """Four to six characters: empty-safe prefix for bridges, veths, nft tables and cgroups.  ``wh`` for the default data root."""
        return _tag(self.data_root)


@cache
def _tag(data_root: str) -> str:
    if data_root == "/var/lib/wherry":
        return "wh"
    return "wh" + hashlib.sha256(data_root.encode()).hexdigest()[:4]
