"""What a container really got, asked from inside by a program of ours, and how that compares with its ``config.json``.

The program reads the kernel's own account of its process and tries what must not work, so a promise that a step forgot, or a kernel does
not keep, shows. See ``docs/decisions/self-test.md`` for what it cannot show.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import struct
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from wherry.kernel import credentials, libc
from wherry.runtime.rawcalls import MACHINES, Answers, Sheet

PROGRAM = "/probe"
_AT_FDCWD = -100
_STATFS_BYTES, _STATFS_FLAGS = 120, 80  # struct statfs and f_flags in it.  Source: include/uapi/asm-generic/statfs.h
_FIRST_FREE = 3  # with 0, 1 and 2 taken and nothing else, the next descriptor
_DIRENT = struct.Struct("<QqHB")
_EMPTY_DIRECTORY_BYTES = 2 * 24  # what getdents64 says of "." and ".."
_AF_UNIX, _AF_ALG, _AF_VSOCK, _SOCK_STREAM, _CLONE_NEWUSER = 1, 38, 40, 1, 0x10000000
_SCRATCH_BYTES = 256
_STAT_BYTES = 144  # struct stat of x86-64, the longest
_UNKNOWN_CALL = 100_000
_HIGH = 1 << 32  # a bit the kernel drops from an int argument
# i386 numbers.  Source: arch/x86/entry/syscalls/syscall_32.tbl
_I386_SOCKETCALL, _I386_SOCKET = 102, 359
_NAMESPACE_FILES = {
    **{"mount": "mnt", "network": "net", "pid": "pid", "ipc": "ipc", "uts": "uts", "cgroup": "cgroup", "user": "user", "time": "time"},
}
Finding = Callable[[Answers], str]  # what is weaker than configured; empty when nothing is


def available() -> bool:
    """Whether there is code for this machine type."""
    return libc.MACHINE in MACHINES


class Probe:
    """The questions of one config: ``program`` asks them, ``weaknesses`` reads the answers."""

    def __init__(self, config: Mapping[str, Any], host_namespaces: Mapping[str, str], *, ours: bool = True) -> None:
        """``host_namespaces``: kind (mnt, pid ...) -> what /proc/self/ns/KIND of the daemon says.

        ``ours``: it runs by our own runtime; others open /dev/net/tun to every container, whatever the config says.
        """
        self._ours = ours
        with open(os.path.join(os.path.dirname(__file__), "syscalls.json"), encoding="utf-8") as file:
            numbers = json.load(file)["tables"][libc.MACHINE]
        self._sheet = Sheet(libc.MACHINE, numbers)
        self._scratch = self._sheet.room(_SCRATCH_BYTES)
        self._findings: list[Finding] = []
        linux: Mapping[str, Any] = config["linux"]
        self._ask_status(config)
        self._ask_descriptors()
        self._ask_input()
        self._ask_program()
        own = {_NAMESPACE_FILES[one["type"]] for one in linux["namespaces"] if not one.get("path")}
        for kind in sorted(own & set(host_namespaces)):
            self._ask_namespace(kind, host_namespaces[kind])
        for path in linux.get("maskedPaths") or ():
            self._ask_masked(path)
        for path in linux.get("readonlyPaths") or ():
            self._ask_readonly(path)
        self._ask_devices()
        if linux.get("seccomp"):
            self._ask_seccomp(linux["seccomp"])
        self.program = self._sheet.program()

    def weaknesses(self, output: bytes) -> list[str]:
        """What is weaker than configured.  Raises ValueError for output that is not the program's."""
        answers = self._sheet.answers(output)
        return [text for finding in self._findings if (text := finding(answers))]

    def _ask_status(self, config: Mapping[str, Any]) -> None:
        process: Mapping[str, Any] = config["process"]
        capabilities = credentials.mask(process["capabilities"]["bounding"])
        expected = {
            **{name: f"{capabilities:016x}" for name in ("CapPrm", "CapEff", "CapBnd")},
            **{"CapInh": f"{0:016x}", "CapAmb": f"{0:016x}"},
            "NoNewPrivs": str(int(bool(process.get("noNewPrivileges")))),
            "Seccomp": "2" if config["linux"].get("seccomp") else "0",
        }
        sheet, size = self._sheet, 4096
        room = sheet.room(size)
        opened = self._open("/proc/self/status")
        length = sheet.call("read", _FIRST_FREE, room, size)
        sheet.call("close", _FIRST_FREE)

        def find(answers: Answers) -> str:
            if answers.calls[opened] != _FIRST_FREE:
                return f"the first descriptor it may open is {answers.calls[opened]}, not {_FIRST_FREE}"
            lines = answers.bytes(room, max(answers.calls[length], 0)).decode(errors="replace").splitlines()
            found = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
            wrong = [f"{name} is {found.get(name)}, not {value}" for name, value in expected.items() if found.get(name) != value]
            return ", ".join(wrong)

        self._findings.append(find)

    def _ask_descriptors(self) -> None:
        sheet, size = self._sheet, 2048
        room = sheet.room(size)
        self._open("/proc/self/fd", os.O_DIRECTORY)
        length = sheet.call("getdents64", _FIRST_FREE, room, size)
        sheet.call("close", _FIRST_FREE)

        def find(answers: Answers) -> str:
            names = _names(answers.bytes(room, max(answers.calls[length], 0)))
            return "" if names == {".", "..", "0", "1", "2", str(_FIRST_FREE)} else f"it has the descriptors {' '.join(sorted(names))}"

        self._findings.append(find)

    def _ask_input(self) -> None:
        """The null device it reads from is its own, or it could change the host's mode and owner."""
        sheet = self._sheet
        of_input, of_own = sheet.room(_STAT_BYTES), sheet.room(_STAT_BYTES)
        sheet.call("fstat", 0, of_input)
        sheet.call("newfstatat", _AT_FDCWD, self._text("/dev/null"), of_own, 0)

        def find(answers: Answers) -> str:
            same = answers.bytes(of_input, 8) == answers.bytes(of_own, 8) != bytes(8)  # st_dev comes first
            return "" if same else "its standard input is a device node of the host's"

        self._findings.append(find)

    def _ask_program(self) -> None:
        read = self._link("/proc/1/exe")
        written = self._open("/proc/1/exe", os.O_WRONLY)
        self._sheet.call("close", _FIRST_FREE)
        self._findings.append(lambda answers: "" if read(answers) == PROGRAM else f"/proc/1/exe leads to {read(answers)!r}")
        self._findings.append(lambda answers: "/proc/1/exe can be written to" if answers.calls[written] >= 0 else "")

    def _ask_namespace(self, kind: str, of_host: str) -> None:
        read = self._link(f"/proc/self/ns/{kind}")

        def find(answers: Answers) -> str:
            found = read(answers)
            return f"its {kind} namespace is the host's" if found == of_host else "" if found else f"its {kind} namespace cannot be read"

        self._findings.append(find)

    def _ask_masked(self, path: str) -> None:
        sheet, room, size = self._sheet, self._scratch, _SCRATCH_BYTES
        opened = self._open(path)
        length = sheet.call("read", _FIRST_FREE, room, size)
        entries = sheet.call("getdents64", _FIRST_FREE, room, size)
        sheet.call("close", _FIRST_FREE)

        def find(answers: Answers) -> str:
            empty_file = answers.calls[length] == 0
            empty_directory = answers.calls[length] == -errno.EISDIR and answers.calls[entries] == _EMPTY_DIRECTORY_BYTES
            return "" if answers.calls[opened] == -errno.ENOENT or empty_file or empty_directory else f"{path} is not masked"

        self._findings.append(find)

    def _ask_readonly(self, path: str) -> None:
        room = self._sheet.room(_STATFS_BYTES)
        answer = self._sheet.call("statfs", self._text(path), room)

        def find(answers: Answers) -> str:
            flags = int.from_bytes(answers.bytes(room, _STATFS_BYTES)[_STATFS_FLAGS : _STATFS_FLAGS + 8], "little")
            return "" if answers.calls[answer] == -errno.ENOENT or flags & os.ST_RDONLY else f"{path} is not read-only"

        self._findings.append(find)

    def _ask_devices(self) -> None:
        """It may make the nodes of any device, and must not open them."""
        for name, form, number in _devices(tunnel=self._ours):
            path = self._text(f"/dev/probe-{number}")
            self._sheet.call("mknodat", _AT_FDCWD, path, form | 0o600, number)
            opened = self._sheet.call("openat", _AT_FDCWD, path, os.O_RDONLY | os.O_NONBLOCK)
            self._sheet.call("close", _FIRST_FREE)
            self._findings.append(partial(_opened, opened, name))

    def _ask_seccomp(self, profile: Mapping[str, Any]) -> None:
        self._refused("unshare(CLONE_NEWUSER)", errno.EPERM, "unshare", _CLONE_NEWUSER)
        self._refused("mount", errno.EPERM, "mount", 0, 0, 0, 0, 0)
        self._refused("keyctl", errno.EPERM, "keyctl", 0)
        self._refused("socket(AF_VSOCK)", errno.EPERM, "socket", _AF_VSOCK, _SOCK_STREAM, 0)
        self._refused("socket(AF_VSOCK) with a high bit", errno.EPERM, "socket", _HIGH | _AF_VSOCK, _SOCK_STREAM, 0)
        self._refused("socket(AF_ALG) with a high bit", errno.EPERM, "socket", _HIGH | _AF_ALG, _SOCK_STREAM, 0)
        self._refused("clone3", errno.ENOSYS, "clone3", 0, 0)
        self._refused("a call that does not exist", errno.ENOSYS, _UNKNOWN_CALL)
        allowed = self._sheet.call("socket", _AF_UNIX, _SOCK_STREAM, 0)
        self._findings.append(
            lambda answers: "" if answers.calls[allowed] >= 0 else "the filter refuses what it must allow: socket(AF_UNIX)"
        )
        old = [entry for entry in profile["syscalls"] if list(entry["names"]) == ["socketcall"]]
        if old and old[0]["action"] != "SCMP_ACT_ALLOW":
            self._refused_to_32_bits("socketcall", errno.ENOSYS, _I386_SOCKETCALL, 1, 0)
        self._refused_to_32_bits("socket(AF_VSOCK)", errno.EPERM, _I386_SOCKET, _AF_VSOCK, _SOCK_STREAM, 0)

    def _refused(self, what: str, number: int, call: str | int, *arguments: int) -> None:
        answer = self._sheet.call(call, *arguments)
        self._findings.append(lambda answers: _refusal(what, number, answers.calls[answer]))

    def _refused_to_32_bits(self, what: str, number: int, call: int, *arguments: int) -> None:
        answer = self._sheet.legacy_call(call, *arguments)
        if answer is not None:  # no answers: the kernel has no 32-bit programs
            self._findings.append(lambda answers: _refusal(f"32-bit {what}", number, answers.legacy[answer]) if answers.legacy else "")

    def _open(self, path: str, flags: int = os.O_RDONLY) -> int:
        return self._sheet.call("openat", _AT_FDCWD, self._text(path), flags)

    def _text(self, path: str) -> int:
        return self._sheet.text(os.fsencode(path))

    def _link(self, path: str) -> Callable[[Answers], str]:
        size = 64
        room = self._sheet.room(size)
        length = self._sheet.call("readlinkat", _AT_FDCWD, self._text(path), room, size)
        return lambda answers: os.fsdecode(answers.bytes(room, max(answers.calls[length], 0)))


def _devices(*, tunnel: bool) -> list[tuple[str, int, int]]:
    """Name, form and number of a loop device, the tunnel device, and the first disk with something on it."""
    found = [("a loop device", stat.S_IFBLK, os.makedev(7, 0))]
    if tunnel:
        found.append(("/dev/net/tun", stat.S_IFCHR, os.makedev(10, 200)))
    for name in sorted(os.listdir("/sys/dev/block")):
        with open(f"/sys/dev/block/{name}/size", encoding="ascii") as file:
            if int(file.read()):
                return [*found, (f"the host's disk {name}", stat.S_IFBLK, os.makedev(*(int(part) for part in name.split(":"))))]
    return found


def _opened(row: int, name: str, answers: Answers) -> str:
    return f"it can open {name}" if answers.calls[row] >= 0 else ""


def _refusal(what: str, number: int, answer: int) -> str:
    if answer in (-errno.EPERM, -errno.ENOSYS):  # either is the filter's: which one is no matter of strength
        return ""
    if answer >= 0:
        return f"{what} is allowed"
    return f"{what} fails with {errno.errorcode.get(-answer, -answer)}, not with {errno.errorcode[number]}"


def _names(entries: bytes) -> set[str]:
    """The names in what getdents64 wrote."""
    found, position = set(), 0
    while position < len(entries):
        length = _DIRENT.unpack_from(entries, position)[2]
        found.add(entries[position + _DIRENT.size : position + length].partition(b"\0")[0].decode())
        position += length
    return found
