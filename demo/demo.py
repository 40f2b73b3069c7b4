"""The main job, from nothing: build the notes' Node application, run it, fetch its page, edit, rebuild from cache; leave nothing.

Run it as root through `make demo`. Everything lives in one temporary folder with a daemon of its own; the base image is made from
this machine's own package sources, so no container registry is needed.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

HERE = Path(__file__).resolve().parent
WHERRY = str(Path(sys.executable).parent / "wherry")


def say(text: str) -> None:
    print(f"\n\033[1m== {text}\033[0m" if sys.stdout.isatty() else f"\n== {text}", flush=True)


class Demo:
    """Runs `wherry` against a daemon of its own, showing each command and how long it took."""

    def __init__(self, scratch: Path) -> None:
        self.environment = {**os.environ, "WHERRY_HOST": f"unix://{scratch}/run/wherry.sock"}

    def wherry(self, *arguments: str) -> float:
        print("$ wherry " + " ".join(arguments), flush=True)
        start = time.perf_counter()
        subprocess.run([WHERRY, *arguments], env=self.environment, check=True)
        seconds = time.perf_counter() - start
        print(f"  ({seconds:.2f} s)", flush=True)
        return seconds

    def read(self, *arguments: str) -> str:
        return subprocess.run([WHERRY, *arguments], env=self.environment, check=True, capture_output=True, text=True).stdout.strip()


def start_daemon(scratch: Path) -> subprocess.Popen[bytes]:
    log = (scratch / "daemon.log").open("wb")
    command = [sys.executable, "-m", "wherry.daemon", "--data-root", f"{scratch}/data", "--run-root", f"{scratch}/run", "--ephemeral"]
    daemon = subprocess.Popen([*command, "--host", f"unix://{scratch}/run/wherry.sock"], stdout=log, stderr=log)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(f"{scratch}/run/wherry.sock") == 0:
                return daemon
        if daemon.poll() is not None:
            break
        time.sleep(0.02)
    daemon.kill()
    raise SystemExit("demo: the daemon did not start:\n" + (scratch / "daemon.log").read_text())


def stop_daemon(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    daemon.wait(timeout=30)


def free_port(wanted: int) -> int:
    """``wanted`` when nothing listens there, else any free port."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fetch(port: int) -> str:
    """The application's page; waits for it to come up."""
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
                return str(answer.read().decode())
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def goal(page: str) -> str:
    return page.partition("<h3>")[2].partition("</h3>")[0]


def main() -> int:
    if os.geteuid() != 0:
        print("demo: run it as root (containers need it; rootless mode is not there yet)", file=sys.stderr)
        return 1
    with ExitStack() as cleanup:
        scratch = Path(tempfile.mkdtemp(prefix="wherry-demo-"))
        cleanup.callback(shutil.rmtree, scratch, ignore_errors=True)
        app = scratch / "app"
        shutil.copytree(HERE / "app", app)
        demo = Demo(scratch)
        daemon = start_daemon(scratch)
        cleanup.callback(stop_daemon, daemon)

        say("a container, with no registry and no network")
        demo.wherry("run", "--rm", "hello-world")

        say("a base image from this machine's own package sources")
        demo.wherry("bootstrap", "node")

        say("build the Node application")
        first = demo.wherry("build", "-t", "goals:1", str(app))

        say("run it with -p and fetch the page")
        port = free_port(3000)
        demo.wherry("run", "-d", "--rm", "--name", "goals", "-p", f"{port}:80", "goals:1")
        page = fetch(port)
        print(f"  http://127.0.0.1:{port}/ says: {goal(page)}")
        demo.wherry("ps")
        demo.wherry("stop", "-t", "1", "goals")

        say("edit the source and build again: the install layer is cached")
        server = app / "server.js"
        server.write_text(server.read_text().replace("Learn Docker!", "Learn Wherry!"))
        second = demo.wherry("build", "-t", "goals:2", str(app))
        demo.wherry("run", "-d", "--rm", "--name", "goals", "-p", f"{port}:80", "goals:2")
        edited = fetch(port)
        print(f"  http://127.0.0.1:{port}/ says: {goal(edited)}")
        demo.wherry("stop", "-t", "1", "goals")

        say("the layers of the image")
        demo.wherry("history", "goals:2")
        demo.wherry("image", "inspect", "goals:2", "-f", "{{.RootFS.Layers}}")
        demo.wherry("images")

        say(f"first build {first:.2f} s, build after the edit {second:.2f} s; cleaning up")
        demo.wherry("system", "prune", "--all", "--force", "--volumes")
        if goal(page) != "Learn Docker!" or goal(edited) != "Learn Wherry!":
            print("demo: the page is not what was expected", file=sys.stderr)
            return 1
    print("demo: everything worked, and nothing was left behind")
    return 0


if __name__ == "__main__":
    sys.exit(main())
