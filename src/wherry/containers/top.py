"""The process table of a container, as `ps` would print it, read from the host's /proc: nothing inside the container is run or trusted.

Source: ps(1) for the columns' meaning; Engine API 1.51 ContainerTop.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from wherry.errors import InvalidRequest, NotSupported

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One row's raw facts, from /proc/PID/{stat,status,cmdline}."""

    pid: int
    ppid: int
    uid: int
    gid: int
    state: str
    name: str
    command: str
    terminal: int
    nice: int
    threads: int
    cpu_s: float
    elapsed_s: float
    started_at: float
    size_kib: int
    resident_kib: int
    memory_share: float
    session: int
    group: int


def read_process(pid: int, *, memory_kib: int, uptime_s: float, now: float) -> Process | None:
    """The facts of ``pid``, or None when it has gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read().decode(errors="replace")
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(1 << 16).rstrip(b"\0").decode(errors="replace").replace("\0", " ")
        owner = os.stat(f"/proc/{pid}")
    except (FileNotFoundError, ProcessLookupError):
        return None
    name = stat[stat.index("(") + 1 : stat.rindex(")")]
    field = stat[stat.rindex(")") + 2 :].split()
    elapsed = max(0.0, uptime_s - int(field[19]) / _TICKS)
    resident = int(field[21]) * _PAGE_KIB
    return Process(
        pid=pid,
        ppid=int(field[1]),
        uid=owner.st_uid,
        gid=owner.st_gid,
        state=field[0],
        name=name,
        command=words or f"[{name}]",
        terminal=int(field[4]),
        nice=int(field[16]),
        threads=int(field[17]),
        cpu_s=(int(field[11]) + int(field[12])) / _TICKS,
        elapsed_s=elapsed,
        started_at=now - elapsed,
        size_kib=int(field[20]) // 1024,
        resident_kib=resident,
        memory_share=100 * resident / memory_kib if memory_kib else 0.0,
        session=int(field[3]),
        group=int(field[2]),
    )


def _user(process: Process) -> str:
    try:
        return pwd.getpwuid(process.uid).pw_name
    except KeyError:
        return str(process.uid)


def _group(process: Process) -> str:
    try:
        return grp.getgrgid(process.gid).gr_name
    except KeyError:
        return str(process.gid)


def _terminal(process: Process) -> str:
    major, minor = process.terminal >> 8 & 0xFFF, process.terminal & 0xFF
    return f"pts/{(major - 136) * 256 + minor}" if 136 <= major < 144 else "?"


def _clock(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _elapsed(seconds: float) -> str:
    whole = int(seconds)
    days, hours = divmod(whole // 3600, 24)
    head = f"{days}-{hours:02d}:" if days else f"{hours:02d}:" if hours else ""
    return f"{head}{whole // 60 % 60:02d}:{whole % 60:02d}"


def _started(process: Process) -> str:
    young = process.elapsed_s < 86400
    return time.strftime("%H:%M" if young else "%b%d", time.localtime(process.started_at))


def _share(process: Process) -> float:
    return 100 * process.cpu_s / process.elapsed_s if process.elapsed_s > 0 else 0.0


Column = tuple[str, Callable[[Process], str]]
_COLUMNS: dict[str, Column] = {
    "pid": ("PID", lambda p: str(p.pid)),
    "ppid": ("PPID", lambda p: str(p.ppid)),
    "user": ("USER", _user),
    "group": ("GROUP", _group),
    "uid": ("UID", lambda p: str(p.uid)),
    "gid": ("GID", lambda p: str(p.gid)),
    "comm": ("COMMAND", lambda p: p.name),
    "args": ("COMMAND", lambda p: p.command),
    "tty": ("TT", _terminal),
    "stat": ("STAT", lambda p: p.state),
    "nice": ("NI", lambda p: str(p.nice)),
    "nlwp": ("NLWP", lambda p: str(p.threads)),
    "time": ("TIME", lambda p: _clock(p.cpu_s)),
    "etime": ("ELAPSED", lambda p: _elapsed(p.elapsed_s)),
    "etimes": ("ELAPSED", lambda p: str(int(p.elapsed_s))),
    "stime": ("STIME", _started),
    "vsz": ("VSZ", lambda p: str(p.size_kib)),
    "rss": ("RSS", lambda p: str(p.resident_kib)),
    "pcpu": ("%CPU", lambda p: f"{_share(p):.1f}"),
    "pmem": ("%MEM", lambda p: f"{p.memory_share:.1f}"),
    "sid": ("SID", lambda p: str(p.session)),
    "pgid": ("PGID", lambda p: str(p.group)),
}
_ALIASES = {
    **dict.fromkeys(("cmd", "command"), "args"),
    **dict.fromkeys(("ucmd", "ucomm"), "comm"),
    **dict.fromkeys(("euser", "uname"), "user"),
    "egroup": "group",
    **dict.fromkeys(("tname", "tt"), "tty"),
    **dict.fromkeys(("s", "state"), "stat"),
    **dict.fromkeys(("start", "start_time"), "stime"),
    **dict.fromkeys(("sess", "session"), "sid"),
    **{"euid": "uid", "egid": "gid", "ni": "nice", "thcount": "nlwp", "cputime": "time", "vsize": "vsz", "rssize": "rss"},
    **{"%cpu": "pcpu", "%mem": "pmem", "pgrp": "pgid"},
}


_TITLES = {
    "egroup": "EGROUP",
    **{"cmd": "CMD", "ucmd": "CMD", "euser": "EUSER", "euid": "EUID", "egid": "EGID", "tname": "TTY", "s": "S", "state": "S"},
    **{"start": "STARTED", "start_time": "START", "thcount": "THCNT", "pgrp": "PGRP", "sess": "SESS", "session": "SESS"},
}
_SELECTING = re.compile("(?:-[eAf]+|[ax]+)o(.*)")


def _renamed(name: str, title: str) -> Column:
    return title, _COLUMNS[name][1]


_FULL = [
    _renamed("user", "UID"),
    _COLUMNS["pid"],
    _COLUMNS["ppid"],
    ("C", lambda p: str(int(_share(p)))),
    _COLUMNS["stime"],
    _renamed("tty", "TTY"),
    _COLUMNS["time"],
    _renamed("args", "CMD"),
]
_BSD = [
    *(_COLUMNS[name] for name in ("user", "pid", "pcpu", "pmem", "vsz", "rss")),
    _renamed("tty", "TTY"),
    _COLUMNS["stat"],
    _renamed("stime", "START"),
    ("TIME", lambda p: f"{int(p.cpu_s) // 60}:{int(p.cpu_s) % 60:02d}"),
    _COLUMNS["args"],
]
_BSD_SHORT = [_COLUMNS["pid"], _renamed("tty", "TTY"), *(_BSD[at] for at in (7, 9, 10))]
_SHORT = [_COLUMNS["pid"], _renamed("tty", "TTY"), _COLUMNS["time"], _renamed("comm", "CMD")]


def columns(arguments: str) -> list[Column]:
    """The columns that ps arguments ask for: `-ef`, `aux`, `-o a,b=TITLE` and the like.  Raises NotSupported for others by name."""
    words = arguments.split() or ["-ef"]
    chosen: list[Column] = []
    shape = _SHORT
    while words:
        word = words.pop(0)
        if (match := _SELECTING.fullmatch(word)) is not None:  # all of them, and of those the columns
            word = f"-o{match[1]}"
        if word.startswith(("-o", "o", "--format")) and word not in ("other",):
            rest = word.removeprefix("--format").removeprefix("-").removeprefix("o").removeprefix("=")
            chosen += _listed(rest or (words.pop(0) if words else ""))
        elif word.startswith("-") and set(word[1:]) <= set("eAafFw"):
            shape = _FULL if set(word) & {"f", "F"} else shape
        elif set(word.removeprefix("-")) <= set("auxw") and (word[:1] != "-" or "x" in word):  # `-aux` is known to be meant as `aux`
            shape = _BSD if "u" in word or shape is _BSD else _BSD_SHORT
        else:
            raise NotSupported(f"top: the ps argument {word!r} is not supported (supported: -ef, aux, -o COLUMN,...)")
    result = chosen or shape
    if not any(title == "PID" for title, _ in result):
        raise InvalidRequest("Couldn't find PID field in ps output")
    return result


def _listed(names: str) -> list[Column]:
    found = []
    for item in names.split(","):
        name, equals, title = item.partition("=")
        key = _ALIASES.get(name.lower(), name.lower())
        if key not in _COLUMNS:
            raise InvalidRequest(f'ps: error: unknown user-defined format specifier "{name}"')
        usual = _TITLES.get(name.lower(), _COLUMNS[key][0])
        found.append((title if equals and title else usual, _COLUMNS[key][1]))
    return found


def table(pids: Iterable[int], arguments: str) -> tuple[list[str], list[list[str]]]:
    """Titles and rows for ``pids`` of the host."""
    wanted = columns(arguments)
    with open("/proc/meminfo") as file:
        memory_kib = int(file.readline().split()[1])
    with open("/proc/uptime") as file:
        uptime_s = float(file.read().split()[0])
    now = time.time()
    rows = [read_process(pid, memory_kib=memory_kib, uptime_s=uptime_s, now=now) for pid in sorted(pids)]
    return [title for title, _ in wanted], [[render(row) for _, render in wanted] for row in rows if row is not None]
