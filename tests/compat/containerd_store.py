"""A second real dockerd, whose images lie in containerd: there BuildKit's exporters write archives, which the other dockerd refuses to.

It lives in a network namespace of its own, so that its bridges and rules are nobody else's, and ends with what its standard input hangs on:
the tests' process, however that ends.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.compat.peers import PEERS, peers

from wherry.kernel import namespace

NETWORK = namespace.CLONE_NEWNET
_PATIENCE_S = 60
# With processes of its own too, so that none outlives it, whoever is killed.
_IN_NAMESPACES = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
_SCRIPT = """
    ip link set lo up
    exec 3<&0
    dockerd --config-file "$0/daemon.json" >"$0/log" 2>&1 </dev/null 3<&- &
    dockerd=$!
    { read -r _ <&3; kill $dockerd; } &
    wait $dockerd
"""


@dataclass(frozen=True, kw_only=True)
class ContainerdStore:
    """Docker with a containerd image store.  ``place``: a directory that it sees too."""

    place: Path
    process: subprocess.Popen[bytes]

    def docker(self, *words: str, check: bool = True, errors: bool = False) -> str:
        return peers("docker", "--host", f"unix://{self.place}/docker.sock", *words, check=check, errors=errors)

    def build(self, context: Path, *words: str) -> str:
        """Without attestations unless ``words`` ask for them."""
        return self.docker("buildx", "build", "--quiet", "--provenance=false", *words, str(context))

    @contextlib.contextmanager
    def sees(self, port: int) -> Iterator[None]:
        """It reaches what listens on 127.0.0.1:``port`` here under the same address."""
        with _listen_in(self.process.pid, port) as listener:
            thread = threading.Thread(target=_relay, args=(listener, port))
            thread.start()
            try:
                yield
            finally:
                _shut(listener)
                thread.join()


@contextlib.contextmanager
def containerd_store() -> Iterator[ContainerdStore]:
    """Started, and removed with everything that is its own.  ``peers.needed`` tells whether it can be had."""
    root = Path(tempfile.mkdtemp(prefix="wherry-containerd-store-", dir="/tmp"))
    settings = {
        "features": {"containerd-snapshotter": True},
        "hosts": [f"unix://{root}/docker.sock"],
        "data-root": f"{root}/data",
        "exec-root": f"{root}/exec",
        "pidfile": f"{root}/pid",
        "cgroup-parent": f"/{root.name}",
        "bridge": "none",
        "iptables": False,
        "ip6tables": False,
    }
    (root / "daemon.json").write_text(json.dumps(settings))
    (root / "log").touch()
    command = [*_IN_NAMESPACES, str(PEERS), "in", "bash", "-c", _SCRIPT, str(root)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        store = ContainerdStore(place=root, process=process)
        deadline = time.monotonic() + _PATIENCE_S
        while not store.docker("version", "--format", "{{.Server.Version}}", check=False):
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the second dockerd did not start\n{(root / 'log').read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)
        yield store
    finally:
        with process:
            try:
                process.communicate(timeout=_PATIENCE_S)
            finally:
                process.kill()
        for path in cgroups(root.name):
            path.rmdir()
        shutil.rmtree(root)


def cgroups(name: str) -> list[Path]:
    """Its cgroups, under v1, v2 or both; the innermost first."""
    tops = [*Path("/sys/fs/cgroup").glob(name), *Path("/sys/fs/cgroup").glob(f"*/{name}")]
    return [path for top in tops for path in (*sorted(top.rglob("*/"), reverse=True), top)]


def _listen_in(pid: int, port: int) -> socket.socket:
    """A listening socket in the network namespace of ``pid``; only a thread that ends goes there."""
    made: list[socket.socket] = []

    def listen() -> None:
        with open(f"/proc/{pid}/ns/net", "rb") as network:
            namespace.setns(network.fileno(), NETWORK)
        made.append(socket.create_server(("127.0.0.1", port)))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    return made[0]


def _relay(listener: socket.socket, port: int) -> None:
    """Until ``listener`` is shut down, and its connections with it."""
    with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
        while True:
            near = stack.enter_context(listener.accept()[0])
            far = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            for source, target in ((near, far), (far, near)):
                thread = threading.Thread(target=_pass, args=(source, target))
                thread.start()
                stack.callback(thread.join)
                stack.callback(_shut, source)


def _pass(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
