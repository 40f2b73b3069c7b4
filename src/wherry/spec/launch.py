"""What the daemon asks the zygote to start: a container, a build step or an exec.  Standard library only.

``config`` is an OCI runtime-spec 1.2 ``config.json`` as a plain dict. Docker semantics that OCI cannot say stand beside it here,
never inside it, so the same config runs unchanged under ``wherry-runtime``, runc or crun.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from wherry.spec.mounts import Rootfs


@dataclass(frozen=True, slots=True, kw_only=True)
class LogTarget:
    """Where the monitor writes a container's output.  ``driver``: json-file, local or none; ``max_size_bytes`` 0 means no rotation."""

    driver: str
    path: str = ""
    max_size_bytes: int = 0
    max_files: int = 1
    compress: bool = False  # rotated files
    attributes: dict[str, str] = field(default_factory=dict)  # shown by `logs --details`


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """A published port that the monitor relays in user space where the kernel's NAT does not reach (IPv6 loopback, no nf_tables).

    The listening or bound socket itself travels as a descriptor beside the launch: it also reserves the port while the container lives,
    whether or not the daemon does.
    """

    protocol: str  # tcp, udp, or sctp, which is only held
    target_ip: str
    target_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyUp:
    """Fill an empty volume with what the image has at ``destination``, before the volume is mounted there."""

    source: str  # the volume's directory on the host
    destination: str  # the path in the container


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A container (or build step) to start.

    ``user``: Docker's ``user[:group]``, resolved in the root filesystem by the first process; overrides ``config.process.user``'s ids.
    ``groups``: additional group names or ids, resolved likewise.
    ``record_dir``: where the monitor writes ``exit.json`` atomically; ``socket_path``: its seqpacket listener for a restarted daemon.
    ``home``: add HOME from the passwd entry when the environment has none.
    """

    id: str
    config: dict[str, Any]
    rootfs: Rootfs
    record_dir: str
    socket_path: str
    log: LogTarget
    user: str = ""
    groups: tuple[str, ...] = ()
    terminal: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    init: bool = False
    init_program: str = ""  # of another OCI runtime, which has none of its own
    copy_ups: tuple[CopyUp, ...] = ()
    forwards: tuple[Forward, ...] = ()
    console_size: tuple[int, int] = (0, 0)  # height, width
    runtime: tuple[str, ...] = ()  # another OCI runtime's program and its own arguments; empty: ours
    bundle: str = ""  # where that one's bundle and state go
    lasting: bool = True  # exit.json outlives a power cut

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "rootfs": self.rootfs.to_json()}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecLaunch:
    """A further process in a running container.

    ``process`` is an OCI ``process`` object (args, env, cwd, capabilities, noNewPrivileges, rlimits ...);
    ``seccomp`` an OCI ``linux.seccomp`` object or None.
    """

    id: str
    container_id: str
    process: dict[str, Any]
    record_dir: str
    socket_path: str
    seccomp: dict[str, Any] | None = None
    cgroups_path: str = ""
    user: str = ""
    groups: tuple[str, ...] = ()
    terminal: bool = False
    open_stdin: bool = False
    console_size: tuple[int, int] = (0, 0)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """A client socket handed to a monitor, which then reads and writes it directly.

    Without a terminal, output is framed as Docker's multiplexed stream. ``leftover``: bytes the daemon had already read from the client.
    """

    stdin: bool
    stdout: bool
    stderr: bool
    detach_keys: str = "ctrl-p,ctrl-q"
    leftover: bytes = b""
    multiplexed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitRecord:
    """How a process ended: Docker's exit code (128+n for a signal), nanoseconds since the epoch, whether the kernel's OOM killer struck."""

    code: int
    finished_at_ns: int
    oom_killed: bool = False
    error: str = ""
