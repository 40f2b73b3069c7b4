"""One per container, build step or exec: holds its stdio, writes its log, serves its clients, reaps it, records how it ended.

Forked from the zygote, so it costs few pages of its own; outlives zygote and daemon. One thread, one epoll loop. Its control channel
carries messages from the daemon; a daemon that starts anew connects to the listener and gets the state told again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import struct
import termios
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wherry.kernel import cgroup, namespace, process, terminal
from wherry.runtime import channel, init, plan, relay
from wherry.runtime.client import Client, detach_sequence
from wherry.runtime.failure import CREATE, EXEC, StartFailure, words
from wherry.runtime.logdriver import Log, open_log
from wherry.runtime.logfile import Loop
from wherry.runtime.spare import Spare, begin

if TYPE_CHECKING:
    import signal as _signal

    from wherry.runtime import foreign
else:
    import _signal  # the builtin half of signal: the enums of the other write to pages that forks share

_READ_BYTES = 64 << 10
_PIPE_BYTES = 1 << 20
_STDIN_BUFFER_BYTES = 64 << 10
_DRAIN_S = 2.0  # how long output of processes that outlive an exec is waited for, as Docker does
_IN, _OUT, _END = select.EPOLLIN, select.EPOLLOUT, select.EPOLLHUP | select.EPOLLERR
_F_SETPIPE_SZ = 1031
_STREAMS = ("stdout", "stderr")
_GO = b"!"  # to the first process


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """A request: the monitor's message, what the first process needs, in JSON, and descriptors for that, -1 for none."""

    message: Mapping[str, Any]
    body: bytes
    program_fd: int = -1
    netns_fd: int = -1
    gate_fd: int = -1


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
        self._spare = spare
        self._nest = nest
        self._launched = launched
        self._message = message = launched.message
        self._control = control
        self._groups = groups
        self._is_exec = message["op"] == "execute"
        self._cgroups_path = ""
        self._cgroup_made = False
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._clients: list[Client] = []
        self._streams: dict[int, str] = {}  # readable output descriptor -> stdout, stderr
        self._stdin = -1
        self._stdin_pending = b""
        self._stdin_closing = False
        self._master = -1
        self._paused = False
        self._log: Log | None = None
        self._listener: socket.socket | None = None
        self._pid = 0
        self._pidfd = -1
        self._started_at_ns = 0
        self._exit: dict[str, Any] | None = None
        self._acknowledged = False
        self._saved = False
        self._deadline = 0.0
        self._exit_code = 0
        self._finished_at_ns = 0
        self._private_pids = False
        self._relay: relay.Relay | None = None
        self._foreign: foreign.Container | None = None
        self._root_fd = -1

    def run(self, forward_fds: list[int], target_pidfd: int, attachments: list[tuple[int, Mapping[str, Any]]]) -> None:
        """The whole life, from pipes to record."""
        try:
            self._start(target_pidfd, attachments)
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
            if forward_fds:
                self._relay = relay.Relay(self._watch, self._unwatch, forward_fds, self._message["forwards"])
            self._loop()
        finally:
            self._finish()

    def _discard_spare(self, *, runs: bool = False) -> None:
        if self._spare is not None:
            self._spare.discard(runs=runs)
            self._spare = None

    # -- start

    def _start(self, target_pidfd: int, attachments: list[tuple[int, Mapping[str, Any]]]) -> None:
        """Let the first process prepare itself, do the same meanwhile, then let it go."""
        if self._message.get("runtime"):
            self._make_ready(attachments)  # before: what another runtime starts waits for nobody
            self._start_foreign()
            return
        report = self._clone_exec(target_pidfd) if self._is_exec else self._begin_container()
        try:
            self._make_ready(attachments)
        except BaseException:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            self._reap()
            raise
        with report:
            with contextlib.suppress(OSError):  # it has failed: why is read next
                report.send(_GO)
            self._await_start(report)

    def _make_ready(self, attachments: list[tuple[int, Mapping[str, Any]]]) -> None:
        """All that must be there when the program runs."""
        if target := self._message.get("log"):
            self._log = open_log(target, Loop(watch=self._watch, unwatch=self._unwatch))
        for fd, attachment in attachments:
            self._attach(fd, attachment)
        self._listen()

    def _begin_container(self) -> socket.socket:
        """The first process, at work: the one made ahead if it can be that.  Returns the channel of its report."""
        launched, child_in = self._launched, self._make_stdin()
        birth = self._plan_birth()
        passed = (launched.program_fd, launched.netns_fd, launched.gate_fd)
        spare = self._spare
        if spare is not None and spare.suits(birth) and spare.order(launched.body, (*passed, child_in)):
            self._pid, self._pidfd, report = spare.pid, spare.pidfd, spare.report
            for name, fd in zip(_STREAMS, spare.outputs, strict=True):
                if self._message["terminal"]:
                    os.close(fd)
                else:
                    self._add_stream(fd, name)
        else:
            if spare is not None:
                spare.dismiss()
            report = self._clone_container(birth, child_in)
        _close(*passed, child_in)
        return report

    def _plan_birth(self) -> plan.Birth:
        birth = plan.birth(self._message, netns_fd=self._launched.netns_fd)
        self._private_pids = bool(birth.clone_flags & namespace.CLONE_NEWPID)
        self._cgroups_path = birth.cgroups_path
        self._cgroup_made = bool(self._cgroups_path)
        return birth

    def _clone_container(self, birth: plan.Birth, child_in: int) -> socket.socket:
        launched = self._launched
        ours, report = channel.pair()
        stdio = self._make_stdio(child_in)
        pid, pidfd = self._clone_into(birth.clone_flags, birth.pid_namespace)
        if pid == 0:
            ours.close()
            begin(launched.body, (launched.program_fd, launched.netns_fd, launched.gate_fd), stdio, report, self._groups)
        self._pid, self._pidfd = pid, pidfd
        report.close()
        _close(*stdio[1:])
        return ours

    def _start_foreign(self) -> None:
        from wherry.runtime import foreign  # few containers have another runtime: the others share no pages with it

        self._plan_birth()
        if self._spare is not None:
            self._spare.dismiss()
        child_in = self._make_stdin()
        stdio = self._make_stdio(child_in if child_in >= 0 else os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
        container = foreign.Container(json.loads(self._launched.body), self._groups)
        self._pid, self._pidfd, master = container.start(stdio, self._launched.netns_fd)
        self._foreign = container
        self._started_at_ns = time.time_ns()
        if master >= 0:
            self._take_terminal(master)
        _close(*stdio, self._launched.netns_fd, self._launched.gate_fd)

    def _clone_exec(self, target_pidfd: int) -> socket.socket:
        stdio = self._make_stdio(self._make_stdin())
        ours, report = channel.pair()
        target = target_pidfd if target_pidfd >= 0 else os.pidfd_open(self._message["pid"])
        own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        namespace.setns(target, namespace.CLONE_NEWPID)
        pid, pidfd = process.clone(0)
        if pid == 0:
            ours.close()
            size = self._message.get("console_size") or (0, 0)
            start = init.describe_start(self._message, stdio, self._launched.program_fd)
            init.run_exec(target, self._message.get("cgroups_path") or "", self._groups, start, (size[0], size[1]), report)
        namespace.setns(own, namespace.CLONE_NEWPID)
        self._pid, self._pidfd = pid, pidfd
        report.close()
        _close(own, target, *stdio)
        return ours

    def _clone_into(self, flags: int, pid_namespace: str) -> tuple[int, int]:
        if not pid_namespace:
            return process.clone(flags)
        fd = os.open(pid_namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            namespace.setns(fd, namespace.CLONE_NEWPID)
        finally:
            os.close(fd)
        return process.clone(flags)

    def _make_stdin(self) -> int:
        """The child's end of its standard input, -1 for none; ours is kept."""
        if self._message["terminal"] or not self._message.get("open_stdin"):
            return -1
        child_in, self._stdin = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._stdin, False)
        return child_in

    def _make_stdio(self, child_in: int) -> tuple[int, ...]:
        """The child's three descriptors, none with a terminal; our ends are kept and watched."""
        if self._message["terminal"]:
            return ()
        children = [child_in]
        for name in _STREAMS:
            readable, writable = os.pipe2(os.O_CLOEXEC)
            self._add_stream(readable, name)
            children.append(writable)
        return tuple(children)

    def _add_stream(self, fd: int, name: str) -> None:
        os.set_blocking(fd, False)
        self._streams[fd] = name
        if not self._paused:
            self._watch(fd, _IN, self._on_output)

    def _take_terminal(self, master: int) -> None:
        self._stdin = self._master = master
        self._add_stream(master, "stdout")

    def _await_start(self, report: socket.socket) -> None:
        while True:
            try:
                message, fds = channel.receive(report)
            except channel.Closed:
                self._started_at_ns = time.time_ns()
                self._check_executed()
                return
            if "terminal" in message:
                self._take_terminal(fds[0])
                continue
            self._reap()
            raise StartFailure(message["code"], message["message"], complete=message["complete"])

    def _check_executed(self) -> None:
        """The channel of a report closes too when the first process is killed.  Raises StartFailure then."""
        if not process.is_ending_unexecuted(self._pid):
            return
        ended = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOWAIT)
        if ended is not None and ended.si_code != os.CLD_EXITED:  # else its program could not be executed, and it said so to its clients
            starved = self._cgroups_path and cgroup.oom_kills(self._groups, self._cgroups_path)
            self._reap()
            raise StartFailure(128, "OOM-killed (memory limit too low?)" if starved else "killed before it executed its program")

    def _reap(self) -> None:
        os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        os.close(self._pidfd)

    def _hold_root(self) -> None:
        """Keep the root file system until the end is told: where it goes, the kernel first writes out all of the one that it lies on."""
        if not self._is_exec and self._foreign is None:
            with contextlib.suppress(OSError):
                self._root_fd = os.open(f"/proc/{self._pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def _fail(self, failure: StartFailure) -> None:
        prefix = "" if failure.complete else EXEC if self._is_exec else CREATE
        self._finish()
        self._remove_cgroup()
        for client in self._clients:
            if self._is_exec:
                client.let_go()  # the daemon tells the failure there, once it knows the exit code that the client asks for next
            else:
                client.close()
        if self._control is not None:
            with contextlib.suppress(channel.Closed, OSError):
                channel.send(self._control, {"event": "failed", "code": failure.code, "message": prefix + failure.message})

    def _listen(self) -> None:
        path = self._message.get("socket_path")
        if not path:
            return
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
        self._listener = listener
        self._watch(listener.fileno(), _IN, self._on_connect)

    def _tell_started(self) -> None:
        if self._control is not None:
            event = {"event": "started", "pid": self._pid, "started_at_ns": self._started_at_ns}
            self._tell(event, [self._pidfd])
        if self._control is not None:
            self._control.setblocking(False)
            self._watch(self._control.fileno(), _IN, self._on_control)

    # -- the loop

    def _loop(self) -> None:
        self._watch(self._pidfd, _IN, self._on_exit)
        self._part_from_clients()  # who left before the program ran
        while not self._done():
            timeout = -1.0
            if self._exit is None and self._deadline and not self._paused:
                timeout = max(self._deadline - time.monotonic(), 0)
            for fd, events in self._epoll.poll(timeout):
                handler = self._handlers.get(fd)
                if handler is not None:
                    handler(events)
            self._part_from_clients()
            self._balance()
            if self._deadline and self._exit is None and (not self._streams or self._is_drained()):
                self._record_exit()

    def _part_from_clients(self) -> None:
        for client in self._clients:
            if client.detached:
                self._tell({"event": "detached"})
        self._clients = [client for client in self._clients if not client.closed]

    def _is_drained(self) -> bool:
        """After an exit: nobody is behind, and what outlived the process had its time."""
        return not self._paused and time.monotonic() >= self._deadline

    def _done(self) -> bool:
        return self._exit is not None and not self._clients and (self._acknowledged or (self._control is None and self._is_told()))

    def _is_told(self) -> bool:
        """Whether the end is known without us: the disk may have been full. Then the next daemon hears it from us."""
        return self._saved or self._listener is None

    def _watch(self, fd: int, events: int, handler: Callable[[int], None]) -> None:
        if fd in self._handlers:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def _unwatch(self, fd: int) -> None:
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def _balance(self) -> None:
        """Stop reading output while a client is behind; a client that waits to be written to is watched for it."""
        behind = any(client.pending for client in self._clients)
        if behind != self._paused:
            self._paused = behind
            self._refresh_streams()

    def _stream_events(self, fd: int) -> int:
        events = 0 if self._paused else _IN
        return events | (_OUT if fd == self._stdin and self._stdin_pending else 0)

    # -- output

    def _on_output(self, events: int) -> None:
        for fd in list(self._streams):
            if not self._paused and fd in self._streams:
                self._read_stream(fd)
        if events & _OUT and self._stdin == self._master and self._stdin_pending:
            self._flush_stdin()

    def _read_stream(self, fd: int) -> None:
        name = self._streams[fd]
        readers = [client for client in self._clients if client.wants(name)]
        try:
            if self._log is None and len(readers) == 1 and fd != self._master and self._splice(fd, name, readers[0]):
                return
            data = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:  # EIO: the last process closed the terminal
            data = b""
        if not data:
            self._close_stream(fd)
            return
        if self._log is not None:
            self._log.write(name, data, time.time_ns())
        for client in readers:
            client.write(name, data)
            if client.pending:
                self._pause()

    def _splice(self, fd: int, name: str, client: Client) -> bool:
        """Move output from the pipe to the only client inside the kernel.  False when that is not possible now."""
        available = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0\0\0\0"))[0]
        if not available:
            return False
        if available >= 32 << 10:
            with contextlib.suppress(OSError):
                fcntl.fcntl(fd, _F_SETPIPE_SZ, _PIPE_BYTES)
        client.splice(name, fd, available)
        if client.pending:
            self._pause()
        return True

    def _pause(self) -> None:
        self._paused = True
        self._refresh_streams()

    def _refresh_streams(self) -> None:
        """Watch what is to be read or written; what is not is left alone, or its end would be told of again and again."""
        for fd in self._streams:
            if events := self._stream_events(fd):
                self._watch(fd, events, self._on_output)
            else:
                self._unwatch(fd)

    def _close_stream(self, fd: int) -> None:
        self._unwatch(fd)
        del self._streams[fd]
        if fd == self._master:
            self._stdin = self._master = -1
        os.close(fd)

    # -- input

    def _on_client_data(self, client: Client, data: bytes) -> None:
        """``data`` from a client's stdin; empty at its end, which is the program's too, or else leaves the client nothing to stay for."""
        closes = not self._message["terminal"] and (self._message.get("stdin_once") or self._is_exec)
        if not data and not closes:
            client.finish()
        if self._stdin < 0 or self._stdin_closing:
            return
        self._stdin_pending += data
        self._stdin_closing = not data and closes
        self._flush_stdin()

    def _flush_stdin(self) -> None:
        try:
            while self._stdin_pending:
                self._stdin_pending = self._stdin_pending[os.write(self._stdin, self._stdin_pending) :]
        except BlockingIOError:
            pass
        except OSError:  # nobody reads any more
            self._stdin_pending, self._stdin_closing = b"", self._stdin != self._master
        if self._stdin == self._master:
            self._refresh_streams()
        elif self._stdin_pending:
            self._watch(self._stdin, _OUT, lambda _: self._flush_stdin())
        else:
            self._unwatch(self._stdin)
            if self._stdin_closing:
                os.close(self._stdin)
                self._stdin = -1
        full = len(self._stdin_pending) > _STDIN_BUFFER_BYTES
        for client in self._clients:
            client.hold_input(full)

    def _attach(self, fd: int, attachment: Mapping[str, Any]) -> None:
        keys = detach_sequence(attachment["detach_keys"]) if self._message["terminal"] else b""
        client = Client(fd, attachment, keys, self._watch, self._unwatch, self._on_client_data)
        self._clients.append(client)
        if attachment["leftover"]:
            client.receive(bytes.fromhex(attachment["leftover"]))

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
                self._attach(fds.pop(), message["attachment"])
                if self._exit is not None:
                    self._clients[-1].finish()
            case "resize" if self._master >= 0:
                with contextlib.suppress(OSError):
                    terminal.set_size(self._master, height=message["height"], width=message["width"])
            case "acknowledge":
                self._acknowledged = True
        for fd in fds:
            os.close(fd)

    def _drop_control(self) -> None:
        if self._control is not None:
            self._unwatch(self._control.fileno())
            self._control.close()
            self._control = None
            if self._exit is not None and not self._acknowledged:
                self._saved = self._save(self._exit, durable=True)  # nobody else will

    def _tell(self, message: dict[str, Any], fds: list[int] | None = None) -> None:
        if self._control is None:
            return
        try:
            channel.send(self._control, message, fds or [])
        except (channel.Closed, OSError):
            self._drop_control()

    # -- the end

    def _on_exit(self, _events: int) -> None:
        self._unwatch(self._pidfd)
        result = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        assert result is not None
        code = result.si_status if result.si_code == os.CLD_EXITED else 128 + result.si_status
        self._exit_code = code
        self._finished_at_ns = time.time_ns()
        if self._stdin >= 0 and self._stdin != self._master:
            self._unwatch(self._stdin)
            os.close(self._stdin)
            self._stdin = -1
        self._kill_rest()
        self._deadline = time.monotonic() + _DRAIN_S
        for fd in list(self._streams):
            if not self._paused and fd in self._streams:
                self._read_stream(fd)

    def _record_exit(self) -> None:
        for fd in list(self._streams):
            self._close_stream(fd)
        if self._log is not None:
            self._log.finish(time.time_ns())
            self._log = None
        oom = bool(self._cgroups_path and not self._is_exec and cgroup.oom_kills(self._groups, self._cgroups_path))
        self._exit = {"code": self._exit_code, "finished_at_ns": self._finished_at_ns, "oom_killed": oom, "error": ""}
        self._saved = self._save(self._exit, durable=self._control is None)
        if self._relay is not None:
            self._relay.close()
        for client in self._clients:
            client.finish()
        if self._foreign is not None:
            self._foreign.delete()  # before the end is told: the next start has the same name
        self._tell({"event": "exited", **self._exit})
        self._remove_cgroup()
        if self._root_fd >= 0:
            os.close(self._root_fd)

    def _save(self, record: dict[str, Any], *, durable: bool) -> bool:
        """Write ``exit.json``: temporary, fsync where it has to last, rename.  False when the disk is full or broken.

        A daemon that listens makes the end durable itself before it acknowledges it, so the file needs only outlive that one's death.
        """
        directory = self._message.get("record_dir")
        if not directory:
            return False
        temporary, final = f"{directory}/exit.json.new", f"{directory}/exit.json"
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, json.dumps(record).encode())
                if durable and self._message["lasting"]:
                    os.fsync(fd)
            finally:
                os.close(fd)
            os.replace(temporary, final)
        except FileNotFoundError:
            return True  # the container's directory is gone, and with it everyone who could ask
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            return False
        return True

    def _kill_rest(self) -> None:
        """A container without a pid namespace of its own ends with its first process too."""
        if self._cgroup_made and not self._private_pids:
            with contextlib.suppress(OSError):
                for pid in cgroup.processes(self._groups, self._cgroups_path):
                    os.kill(pid, signal.SIGKILL)

    def _remove_cgroup(self) -> None:
        if self._cgroup_made:
            self._kill_rest()
            self._cgroup_made = False
            with contextlib.suppress(OSError):
                cgroup.remove(self._groups, self._cgroups_path)

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


def _close(*fds: int) -> None:
    """Close those that are there."""
    for fd in fds:
        if fd >= 0:
            os.close(fd)
