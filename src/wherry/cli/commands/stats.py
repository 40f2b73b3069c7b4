"""``wherry stats``."""

from __future__ import annotations

import sys
import time

from wherry.cli.flags import Command, Flag, Invocation
from wherry.cli.main import describe
from wherry.cli.output import Listing, binary_size, size
from wherry.client.engine import ApiError, container_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

PAUSE_S = 1.0
HOME, ERASE_LINE, ERASE_BELOW = "\033[H", "\033[K", "\033[J"
LISTING = Listing(
    "*container.statsContext",
    {
        "ID": "CONTAINER ID",
        "Name": "NAME",
        "CPUPerc": "CPU %",
        "MemUsage": "MEM USAGE / LIMIT",
        "MemPerc": "MEM %",
        "NetIO": "NET I/O",
        "BlockIO": "BLOCK I/O",
        "PIDs": "PIDS",
        "Container": "CONTAINER",
    },
    ("ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs"),
)


def run(invocation: Invocation) -> int:
    layout = invocation.text("format") or str(invocation.program.config().get("statsFormat") or "")
    if invocation.flag("no-stream"):
        samples, status = _samples(invocation, {"stream": "0"})
        if status and not samples:
            return status
        sys.stdout.write(_table(samples, {}, layout, invocation))
        return status
    return _watch(invocation, layout)


def _watch(invocation: Invocation, layout: str) -> int:
    """A new table every second, until the program is interrupted or a container named here is gone."""
    before: dict[str, Mapping[str, Any]] = {}
    clear = (sys.stdout.isatty() and layout in ("", "table")) or layout.startswith("table")
    while True:
        samples, status = _samples(invocation, {"stream": "0", "one-shot": "1"})
        if status:
            return status
        text = _table(samples, before, layout, invocation)
        if clear:
            text = HOME + text.replace("\n", ERASE_LINE + "\n") + ERASE_BELOW
        sys.stdout.write(text)
        sys.stdout.flush()
        before = dict(samples)
        time.sleep(PAUSE_S)


def _samples(invocation: Invocation, query: Mapping[str, object]) -> tuple[list[tuple[str, Mapping[str, Any]]], int]:
    """One sample of each container, with the name it was asked by; and the exit code."""
    engine = invocation.program.engine
    known = {item["Id"]: item["Names"][0] for item in engine.get("/containers/json", {"all": invocation.flag("all")}) or ()}
    names = invocation.arguments or list(known)
    status = 0
    found: list[tuple[str, Mapping[str, Any]]] = []
    for name, answer in zip(names, engine.call_each([("GET", container_path(name, "stats"), query) for name in names]), strict=True):
        if not isinstance(answer, ApiError):
            ident = answer.get("id") or name  # Docker leaves id and name out of some samples
            found.append((name, {**answer, "id": ident, "name": answer.get("name") or known.get(ident, "--")}))
        elif invocation.arguments:
            print(describe(answer), file=sys.stderr)
            status = 1
    return found, status


def _table(
    samples: Sequence[tuple[str, Mapping[str, Any]]], before: Mapping[str, Mapping[str, Any]], layout: str, invocation: Invocation
) -> str:
    trunc = not invocation.flag("no-trunc")
    return LISTING.text([stats_row(name, sample, before.get(name), trunc=trunc) for name, sample in samples], layout)


def stats_row(asked: str, sample: Mapping[str, Any], before: Mapping[str, Any] | None, *, trunc: bool) -> dict[str, str]:
    """One container as the cells of a table; its CPU use since ``before``, or since the sample the daemon took before."""
    memory = sample.get("memory_stats") or {}
    used, limit = memory_used(memory), memory.get("limit", 0)
    networks = (sample.get("networks") or {}).values()
    received, sent = (sum(network[key] for network in networks) for key in ("rx_bytes", "tx_bytes"))
    read, written = _block_io(sample.get("blkio_stats") or {})
    earlier = (before or {}).get("cpu_stats") or sample.get("precpu_stats") or {}
    return {
        "Container": asked,
        "ID": sample["id"][:12] if trunc else sample["id"],
        "Name": sample["name"].removeprefix("/"),
        "CPUPerc": f"{cpu_percent(sample.get('cpu_stats') or {}, earlier):.2f}%",
        "MemUsage": f"{binary_size(used)} / {binary_size(limit)}",
        "MemPerc": f"{used / limit * 100 if limit else 0:.2f}%",
        "NetIO": f"{size(received, 3)} / {size(sent, 3)}",
        "BlockIO": f"{size(read, 3)} / {size(written, 3)}",
        "PIDs": str((sample.get("pids_stats") or {}).get("current", 0)),
    }


def cpu_percent(now: Mapping[str, Any], before: Mapping[str, Any]) -> float:
    """Share of one CPU, in percent, from two samples of ``cpu_stats``."""
    usage = now.get("cpu_usage") or {}
    used = usage.get("total_usage", 0) - (before.get("cpu_usage") or {}).get("total_usage", 0)
    passed = now.get("system_cpu_usage", 0) - before.get("system_cpu_usage", 0)
    count = now.get("online_cpus") or len(usage.get("percpu_usage") or ())
    return used / passed * count * 100 if used > 0 and passed > 0 else 0.0


def memory_used(memory: Mapping[str, Any]) -> int:
    """Usage without the page cache that can be dropped at once."""
    usage: int = memory.get("usage", 0)
    details = memory.get("stats") or {}
    for key in ("total_inactive_file", "inactive_file"):
        if 0 <= details.get(key, -1) < usage:
            return usage - int(details[key])
    return usage


def _block_io(stats: Mapping[str, Any]) -> tuple[int, int]:
    totals = {"r": 0, "w": 0}
    for entry in stats.get("io_service_bytes_recursive") or ():
        kind = entry["op"][:1].lower()
        if kind in totals:
            totals[kind] += entry["value"]
    return totals["r"], totals["w"]


COMMAND = Command(
    "[OPTIONS] [CONTAINER...]",
    "Display a live stream of container(s) resource usage statistics",
    run,
    flags=(
        Flag("all", "bool", "Show all containers, not only those that run", short="a"),
        Flag("format", "string", "json, table, table TEMPLATE, or a Go template"),
        Flag("no-stream", "bool", "Show one sample only"),
        Flag("no-trunc", "bool", "Cut nothing short"),
    ),
)
