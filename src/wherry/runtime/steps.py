"""The steps between a fresh process and a container: each can say what it does, and do it.

Here are those of the process itself; those of its mounts are in `mounting`, of /dev in `devices`, of what is hidden in `covers`.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from wherry.kernel import cgroup, controlfiles, files, namespace, scheduling, userns
from wherry.runtime import labels
from wherry.runtime.calls import Calls, Own
from wherry.runtime.failure import StartFailure, lowered

Key = tuple[str, str, str, tuple[tuple[str, str | None], ...], int]  # of a new file system: destination, type, source, its options


@dataclass(slots=True)
class Sandbox:
    """What the steps have made so far."""

    groups: cgroup.Hierarchies
    calls: Calls = field(default_factory=Own)  # what the steps do to the process itself
    in_group: bool = False
    root_fd: int = -1
    pts_fd: int = -1
    dev_fd: int = -1
    null_fd: int = -1
    proc_fd: int = -1
    master_fd: int = -1
    slave_fd: int = -1
    dev_bound: bool = False
    at_hooks: Callable[[], None] | None = None
    labels: list[tuple[int, str]] = field(default_factory=list)
    sources: dict[int, int] = field(default_factory=dict)
    to_seal: list[int] = field(default_factory=list)  # read-only once nothing more is to be mounted in them
    ahead: dict[Key, int] = field(default_factory=dict)  # file systems made already
    has_devices: bool = False  # the one for /dev has its nodes
    empty_fd: int = -1  # a file system without a file
    enter: Callable[[], None] | None = None  # the mount namespace that waits for the root


class Step(Protocol):
    """One act of a plan."""

    def describe(self) -> str:
        """The act in one line."""

    def execute(self, sandbox: Sandbox) -> None:
        """Do it.  Raises OSError or StartFailure."""


@dataclass(frozen=True, slots=True)
class JoinCgroup:
    """Move into the container's group; with ``private`` into a cgroup namespace rooted there."""

    path: str
    private: bool

    def describe(self) -> str:
        return f"join cgroup {self.path}" + (" and make it the root of a cgroup namespace" if self.private else "")

    def execute(self, sandbox: Sandbox) -> None:
        if self.path and not sandbox.in_group:
            sandbox.calls.join_cgroup(sandbox.groups, self.path)
        if self.private:
            sandbox.calls.unshare(namespace.CLONE_NEWCGROUP)


@dataclass(frozen=True, slots=True)
class JoinNamespace:
    """Enter an existing namespace, by path or by a descriptor that came with the launch."""

    kind: int
    path: str
    fd: int = -1

    def describe(self) -> str:
        return f"join namespace {self.path or f'descriptor {self.fd}'}"

    def execute(self, sandbox: Sandbox) -> None:
        fd = self.fd if self.fd >= 0 else os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            namespace.setns(fd, self.kind)
        finally:
            os.close(fd)


@dataclass(frozen=True, slots=True)
class BecomeRoot:
    """Root of the user namespace, which owns nothing outside; ``uid`` and ``gid`` where it has no root: what is made must have an owner."""

    uid: int = 0
    gid: int = 0

    def describe(self) -> str:
        return "become root of the user namespace"

    def execute(self, sandbox: Sandbox) -> None:
        with contextlib.suppress(PermissionError):  # a joined namespace may forbid setgroups
            os.setgroups(())
        gid = 0 if userns.maps_root("/proc/self/gid_map") else self.gid
        uid = 0 if userns.maps_root("/proc/self/uid_map") else self.uid
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)


@dataclass(frozen=True, slots=True)
class OpenLabels:
    """The files of a security module that name the label of the next program: opened in the host's /proc, written at the very end."""

    apparmor: str
    selinux: str

    def describe(self) -> str:
        return f"prepare the labels {self.apparmor} {self.selinux}"

    def execute(self, sandbox: Sandbox) -> None:
        sandbox.labels += labels.open_files(self.apparmor, self.selinux)


@dataclass(frozen=True, slots=True)
class AwaitHooks:
    """The hooks between a finished root file system and entering it."""

    def describe(self) -> str:
        return "run the hooks of creation"

    def execute(self, sandbox: Sandbox) -> None:
        if sandbox.at_hooks is not None:
            sandbox.at_hooks()


@dataclass(frozen=True, slots=True)
class SetNames:
    """Host and domain name."""

    hostname: str
    domainname: str

    def describe(self) -> str:
        return f"set host name {self.hostname} {self.domainname}".rstrip()

    def execute(self, sandbox: Sandbox) -> None:
        if self.hostname:
            namespace.sethostname(self.hostname)
        if self.domainname:
            namespace.setdomainname(self.domainname)


@dataclass(frozen=True, slots=True)
class SetSysctls:
    """Kernel settings of the container's namespaces, through the procfs mounted above and nothing else."""

    values: tuple[tuple[str, str], ...]

    def describe(self) -> str:
        return "set " + " ".join(f"{key}={value}" for key, value in self.values)

    def execute(self, sandbox: Sandbox) -> None:
        for key, value in self.values:
            path = "sys/" + key.replace(".", "/")
            try:
                fd = files.openat2(
                    sandbox.proc_fd,
                    path,
                    os.O_WRONLY,
                    resolve=files.RESOLVE_BENEATH | files.RESOLVE_NO_SYMLINKS | files.RESOLVE_NO_XDEV,
                )
            except OSError as error:
                raise StartFailure(127 if error.errno == errno.ENOENT else 128, f"open sysctl {key} file: {lowered(error)}") from None
            try:
                os.write(fd, value.encode())
            except OSError as error:
                raise StartFailure(128, f'failed to write sysctl {key} = "{value}": {lowered(error)}') from None
            finally:
                os.close(fd)


@dataclass(frozen=True, slots=True)
class AdjustOomScore:
    """Written while the host's /proc is there; a value that needs CAP_SYS_RESOURCE is left out without it, unless it is ``exact``."""

    score: int
    exact: bool = False

    def describe(self) -> str:
        return f"set oom_score_adj {self.score}"

    def execute(self, sandbox: Sandbox) -> None:
        try:
            controlfiles.write("/proc/self/oom_score_adj", str(self.score))
        except PermissionError:
            if self.exact:
                raise


@dataclass(frozen=True, slots=True)
class SetPersonality:
    """The execution domain of the program: LINUX or LINUX32."""

    wanted: Mapping[str, Any]

    def describe(self) -> str:
        return f"set personality {self.wanted['domain']}"

    def execute(self, sandbox: Sandbox) -> None:
        if self.wanted["domain"] not in scheduling.DOMAINS or self.wanted.get("flags"):
            raise StartFailure(128, f"linux.personality {dict(self.wanted)} is not supported")
        scheduling.set_personality(scheduling.DOMAINS[self.wanted["domain"]])


def describe(steps: list[Any]) -> str:
    """A plan as text, one numbered step a line."""
    return "\n".join(f"{number:2}. {step.describe()}" for number, step in enumerate(steps, 1))
