"""One per container, build step or exec: holds its streams, serves its clients, reaps it, records how it ended.

Forked from the zygote, so it costs few pages of its own; outlives zygote and daemon. One thread, one loop. Its control channel carries
messages from the daemon; a daemon that starts anew connects to the listener and gets the state told again. How the process comes into being
is in `birth`; what goes through its pipes or its terminal, in `streams`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from wherry.kernel import cgroup, namespace
from wherry.runtime import birth, channel, plan, relay
from wherry.runtime.birth import Launched, Newborn
from wherry.runtime.eventloop import IN, EventLoop
from wherry.runtime.failure import CREATE, EXEC, StartFailure, words
from wherry.runtime.spare import Spare
from wherry.runtime.streams import Streams

if TYPE_CHECKING:
    import signal as _signal

    from wherry.runtime import foreign
else:
    import _signal  # the builtin half of signal: the enums of the other write to pages that forks share

_DRAIN_S = 2.0  # how long output of processes that outlive an exec is waited for, as Docker does


class Monitor:
    """Runs one process to its end."""

    def __init__(
        self,
        launched: Launched,
        control: socket.socket | None,
        groups: cgroup.Hierarchies,
        spare: Spare | None = None,
        nest: socket.socket | None = None,
    ) -> None:
        """``nest``: closed once the program runs."""
        self._launched = launched
        self._message = launched.message
        self._control = control
        self._groups = groups
        self._spare = spare
        self._nest = nest
        self._is_exec = self._message["op"] == "execute"
        self._loop = EventLoop()
        self._streams = Streams(self._loop, self._message)
        self._relay: relay.Relay | None = None
        self._listener: socket.socket | None = None
        self._foreign: foreign.Container | None = None
        self._group = ""  # the control group that ends with the process
        self._private_pids = False
        self._pid = 0
        self._pidfd = -1
        self._root_fd = -1
        self._started_at_ns = 0
        self._finished_at_ns = 0
        self._exit_code = 0
        self._deadline = 0.0  # after its end: until then output is waited for
        self._exit: dict[str, Any] | None = None  # the record
        self._saved = False
        self._acknowledged = False

    def run(self) -> None:
        """The whole life, from pipes to record."""
        try:
            self._start()
        except StartFailure as failure:
            self._fail(failure)
            return
        except (OSError, ValueError) as error:
            self._fail(StartFailure(128, words(error)))
            return
        try:
            self._tell_started()
            self._hold_root()
            if self._nest is not None:
                self._nest.close()
            self._discard_spare(runs=self._foreign is None)
            if self._launched.forward_fds:
                self._relay = relay.Relay(self._loop, self._launched.forward_fds, self._message["forwards"])
            self._live()
        finally:
            self._finish()

    # -- the start

    def _start(self) -> None:
        """Let the process prepare itself, do the same meanwhile, then let it go."""
        if self._message.get("runtime"):
            self._start_foreign()
        else:
            newborn = self._begin()
            try:
                self._make_ready()
            except BaseException:
                newborn.end()
                raise
            newborn.let_go(self._streams, self._oom_kills)
            self._pid, self._pidfd = newborn.pid, newborn.pidfd
        self._started_at_ns = time.time_ns()

    def _begin(self) -> Newborn:
        if self._is_exec:
            return birth.begin_exec(self._launched, self._streams, self._groups)
        return birth.begin_container(self._launched, self._plan_birth(), self._streams, self._spare, self._groups)

    def _start_foreign(self) -> None:
        self._plan_birth()
        if self._spare is not None:
            self._spare.dismiss()
        self._make_ready()  # before: what another runtime starts waits for nobody
        self._pid, self._pidfd, self._foreign = birth.run_foreign(self._launched, self._streams, self._groups)

    def _plan_birth(self) -> plan.Birth:
        planned = plan.birth(self._message, netns_fd=self._launched.netns_fd)
        self._group = planned.cgroups_path
        self._private_pids = bool(planned.clone_flags & namespace.CLONE_NEWPID)
        return planned

    def _make_ready(self) -> None:
        """All that must be there when the program runs."""
        if target := self._message.get("log"):
            self._streams.keep_log(target)
        for fd, attachment in self._launched.attachments:
            self._streams.attach(fd, attachment)
        if path := self._message.get("socket_path"):
            self._listener = _listen(path)
            self._loop.watch(self._listener.fileno(), IN, self._on_connect)

    def _hold_root(self) -> None:
        """Keep the root file system until the end is told: where it goes, the kernel first writes out all of the one that it lies on."""
        if not self._is_exec and self._foreign is None:
            with contextlib.suppress(OSError):
                self._root_fd = os.open(f"/proc/{self._pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def _discard_spare(self, *, runs: bool = False) -> None:
        if self._spare is not None:
            self._spare.discard(runs=runs)
            self._spare = None

    def _fail(self, failure: StartFailure) -> None:
        prefix = "" if failure.complete else EXEC if self._is_exec else CREATE
        self._finish()
        self._remove_group()
        # the daemon tells the failure of an exec to its client, once it knows the exit code that the client asks for next
        self._streams.end_clients(gone_on_with=self._is_exec)
        if self._control is not None:
            with contextlib.suppress(channel.Closed, OSError):
                channel.send(self._control, {"event": "failed", "code": failure.code, "message": prefix + failure.message})

    # -- the life

    def _live(self) -> None:
        self._loop.watch(self._pidfd, IN, self._on_exit)
        self._settle()  # who left before the program ran
        while not self._done():
            waits = self._deadline and self._exit is None and not self._streams.paused
            self._loop.turn(max(self._deadline - time.monotonic(), 0) if waits else -1)
            self._settle()
            if self._deadline and self._exit is None and (not self._streams.is_open or self._is_drained()):
                self._record_exit()

    def _settle(self) -> None:
        for _ in self._streams.settle():
            self._tell({"event": "detached"})

    def _is_drained(self) -> bool:
        """After an exit: nobody is behind, and what outlived the process had its time."""
        return not self._streams.paused and time.monotonic() >= self._deadline

    def _done(self) -> bool:
        if self._exit is None or self._streams.has_clients:
            return False
        # without a daemon: when the end is known without us too. The disk may have been full: then the next daemon hears it from us
        return self._acknowledged or (self._control is None and (self._saved or self._listener is None))

    # -- the daemon

    def _on_connect(self, _events: int) -> None:
        assert self._listener is not None
        with contextlib.suppress(BlockingIOError):
            accepted = self._listener.accept()[0]
            self._drop_control()
            self._control = accepted
            self._tell_started()
            if self._exit is not None:
                self._tell({"event": "exited", **self._exit})

    def _on_control(self, _events: int) -> None:
        if self._control is None:
            return
        try:
            message, fds = channel.receive(self._control)
        except BlockingIOError:
            return
        except (channel.Closed, OSError, ValueError):
            self._drop_control()
            return
        match message["op"]:
            case "attach":
                self._streams.attach(fds.pop(), message["attachment"])
                if self._exit is not None:
                    self._streams.finish_clients()
            case "resize":
                self._streams.resize(height=message["height"], width=message["width"])
            case "acknowledge":
                self._acknowledged = True
        for fd in fds:
            os.close(fd)

    def _tell_started(self) -> None:
        self._tell({"event": "started", "pid": self._pid, "started_at_ns": self._started_at_ns}, [self._pidfd])
        if self._control is not None:
            self._control.setblocking(False)
            self._loop.watch(self._control.fileno(), IN, self._on_control)

    def _tell(self, message: dict[str, Any], fds: list[int] | None = None) -> None:
        if self._control is None:
            return
        try:
            channel.send(self._control, message, fds or [])
        except (channel.Closed, OSError):
            self._drop_control()

    def _drop_control(self) -> None:
        if self._control is not None:
            self._loop.unwatch(self._control.fileno())
            self._control.close()
            self._control = None
            if self._exit is not None and not self._acknowledged:
                self._saved = self._save(durable=True)  # nobody else will

    # -- the end

    def _on_exit(self, _events: int) -> None:
        self._loop.unwatch(self._pidfd)
        result = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        assert result is not None
        self._exit_code = result.si_status if result.si_code == os.CLD_EXITED else 128 + result.si_status
        self._finished_at_ns = time.time_ns()
        self._streams.end_stdin()
        self._kill_rest()
        self._deadline = time.monotonic() + _DRAIN_S
        self._streams.read_all()

    def _record_exit(self) -> None:
        self._streams.end_outputs()
        oom = bool(self._oom_kills())
        self._exit = {"code": self._exit_code, "finished_at_ns": self._finished_at_ns, "oom_killed": oom, "error": ""}
        self._saved = self._save(durable=self._control is None)
        if self._relay is not None:
            self._relay.close()
        self._streams.finish_clients()
        if self._foreign is not None:
            self._foreign.delete()  # before the end is told: the next start has the same name
        self._tell({"event": "exited", **self._exit})
        self._remove_group()
        if self._root_fd >= 0:
            os.close(self._root_fd)

    def _save(self, *, durable: bool) -> bool:
        """Write ``exit.json``.  False when the disk is full or broken, or nobody wants it.

        A daemon that listens makes the end durable itself before it acknowledges it, so the file needs only outlive that one's death.
        """
        directory = self._message.get("record_dir")
        return bool(directory) and _save(f"{directory}/exit.json", self._exit, durable=durable and self._message["lasting"])

    def _oom_kills(self) -> int:
        return cgroup.oom_kills(self._groups, self._group) if self._group else 0

    def _kill_rest(self) -> None:
        """A container without a pid namespace of its own ends with its first process too."""
        if self._group and not self._private_pids:
            with contextlib.suppress(OSError):
                for pid in cgroup.processes(self._groups, self._group):
                    os.kill(pid, signal.SIGKILL)

    def _remove_group(self) -> None:
        if self._group:
            self._kill_rest()
            with contextlib.suppress(OSError):
                if not cgroup.remove(self._groups, self._group):  # who dies slowly is in it, or who came in just before the end
                    cgroup.end(self._groups, self._group)

    def _finish(self) -> None:
        self._discard_spare()
        path = self._message.get("socket_path")
        if self._listener is not None and path and not self._acknowledged:
            with contextlib.suppress(OSError):
                os.unlink(path)


def prepare() -> None:
    """Turn a fresh fork of the zygote into a process of its own."""
    os.setsid()
    _signal.signal(signal.SIGCHLD, _signal.SIG_DFL)
    _signal.signal(signal.SIGPIPE, _signal.SIG_IGN)


def _listen(path: str) -> socket.socket:
    """Where a daemon that starts anew finds us."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    old = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(old)
    listener.listen(4)
    listener.setblocking(False)
    return listener


def _save(path: str, record: Mapping[str, Any] | None, *, durable: bool) -> bool:
    """Whole or not at all: temporary, fsync where it has to last, rename.  False when it could not be written."""
    temporary = f"{path}.new"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, json.dumps(record).encode())
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(temporary, path)
    except FileNotFoundError:
        return True  # the container's directory is gone, and with it everyone who could ask
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        return False
    return True
