"""What a process does to itself on its way to a program, as system calls: who makes them is another matter.

`Own` makes them at once. Where the process has no interpreter, they are written down for it (``bundle/written.py``).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Protocol

from wherry.kernel import cgroup, credentials, namespace, process, scheduling, seccomp
from wherry.runtime.failure import StartFailure, words

LIMIT = "error setting rlimit"


class Calls(Protocol):
    """Each is named as the kernel's, or for what it is made of.  What the kernel refuses ends the start, unless it is said otherwise."""

    def join_session_keyring(self) -> None:
        """A new one; where there can be none, nothing is shared either."""

    def join_cgroup(self, groups: cgroup.Hierarchies, path: str) -> None: ...

    def unshare(self, kinds: int) -> None: ...

    def setsid(self) -> None: ...

    def dup2(self, fd: int, number: int) -> None:
        """``number`` is the program's then."""

    def fchown(self, fd: int, uid: int) -> None:
        """If it may be."""

    def enter_this_directory(self) -> None:
        """Have the working directory of the process that describes the way."""

    def prlimit(self, kind: str, soft: int, hard: int, *, exact: bool) -> None:
        """See `credentials.set_rlimit`."""

    def umask(self, mask: int) -> None: ...

    def close_on_exec(self, first: int) -> None:
        """All descriptors from ``first`` on."""

    def use_every_cpu(self) -> None:
        """All that the group may use, whatever the caller is bound to."""

    def default_signals(self) -> None:
        """No signal is ignored, and a handler of ours is none of the process's."""

    def prctl(self, option: int, argument: int = 0, second: int = 0) -> None: ...

    def drop_bounding(self, keep: int) -> None:
        """Capabilities outside ``keep``, also those newer than this program."""

    def setgroups(self, groups: Sequence[int]) -> None: ...

    def setresgid(self, gid: int) -> None:
        """All three."""

    def setresuid(self, uid: int) -> None:
        """All three."""

    def permitted(self) -> int:
        """The capabilities that the process has."""

    def capset(self, *, effective: int, permitted: int, inheritable: int) -> None: ...

    def raise_ambient(self, bits: int) -> None: ...

    def seccomp(self, program: bytes, flags: int) -> None: ...


class Own:
    """`Calls` of this process, made at once."""

    def join_session_keyring(self) -> None:
        process.join_session_keyring()

    def join_cgroup(self, groups: cgroup.Hierarchies, path: str) -> None:
        cgroup.join(groups, path)

    def unshare(self, kinds: int) -> None:
        namespace.unshare(kinds)

    def setsid(self) -> None:
        os.setsid()

    def dup2(self, fd: int, number: int) -> None:
        os.dup2(fd, number, inheritable=True)

    def fchown(self, fd: int, uid: int) -> None:
        with contextlib.suppress(OSError):
            os.fchown(fd, uid, -1)

    def enter_this_directory(self) -> None:
        pass

    def prlimit(self, kind: str, soft: int, hard: int, *, exact: bool) -> None:
        try:
            credentials.set_rlimit(kind, soft, hard, exact=exact)
        except (OSError, ValueError) as error:
            raise StartFailure(128, f"{LIMIT} {kind}: {words(error)}") from None

    def umask(self, mask: int) -> None:
        os.umask(mask)

    def close_on_exec(self, first: int) -> None:
        process.close_range(first, cloexec=True)

    def use_every_cpu(self) -> None:
        scheduling.use_every_cpu()

    def default_signals(self) -> None:
        process.default_signals()

    def prctl(self, option: int, argument: int = 0, second: int = 0) -> None:
        process.prctl(option, argument, second)

    def drop_bounding(self, keep: int) -> None:
        credentials.drop_bounding(keep)

    def setgroups(self, groups: Sequence[int]) -> None:
        os.setgroups(groups)

    def setresgid(self, gid: int) -> None:
        os.setresgid(gid, gid, gid)

    def setresuid(self, uid: int) -> None:
        os.setresuid(uid, uid, uid)

    def permitted(self) -> int:
        return credentials.capget()[1]

    def capset(self, *, effective: int, permitted: int, inheritable: int) -> None:
        credentials.capset(effective=effective, permitted=permitted, inheritable=inheritable)

    def raise_ambient(self, bits: int) -> None:
        credentials.raise_ambient(bits)

    def seccomp(self, program: bytes, flags: int) -> None:
        seccomp.load(program, flags)
