"""Every system call under our filter and under runc's: the same answers but for what `docs/security.md` names."""

from __future__ import annotations

import os
import shutil
from functools import cache

import pytest
from tests.conftest import Daemon
from tests.kernel.test_seccomp import interpret
from tests.security import everycall, verdicts

from wherry.kernel import libc, seccomp
from wherry.runtime import defaults
from wherry.runtime.filters import Compiler

EPERM, ENOSYS = verdicts.EPERM, verdicts.ENOSYS
IO_URING = (425, 426, 427)  # ENOSYS, so that programs do without
PROBES = (335, 336)  # uretprobe, uprobe: newer kernels show them to no filter
SOCKETCALL = 102  # of i386: ENOSYS, since no filter sees its arguments
SOCKET, AF_ALG, AF_VSOCK, HIGH, X32 = 41, 38, 40, 1 << 32, 1 << 30
NEWEST_OF_OLD_LIBSECCOMP = 450  # Debian 12's knows no call above: its runc answers ENOSYS there


@cache
def default_program() -> bytes:
    return Compiler().program(defaults.decide_socketcall(defaults.default_seccomp(defaults.CAPABILITIES), allowed=False))


def ours(architecture: str, number: int) -> int | None:
    """What our default filter does to a call with arguments of zero: an errno, or None where the kernel gets it."""
    answer = interpret(default_program(), number, arch=seccomp.AUDIT_ARCH[architecture])
    if answer == seccomp.RET_ALLOW:
        return None
    assert answer & 0xFFFF0000 == seccomp.RET_ERRNO
    return answer & 0xFFFF


@pytest.mark.skipif(libc.MACHINE != "x86_64", reason="measured on x86-64")
@pytest.mark.parametrize("architecture", ["x86_64", "i386"])
def test_our_filter_answers_as_runcs_was_measured_to(architecture: str) -> None:
    recorded = verdicts.load()[architecture]
    checked = 0
    for (call,) in verdicts.calls(architecture):
        number = call & ~everycall.LEGACY
        confined, unconfined = (recorded[mode].get(number) for mode in ("confined", "unconfined"))
        if architecture == "x86_64" and number in PROBES:
            continue
        if number in IO_URING or (architecture == "i386" and number == SOCKETCALL):
            assert ours(architecture, number) == ENOSYS
        elif confined != unconfined:
            assert ours(architecture, number) == confined, number
            checked += 1
        else:  # the filter says what the kernel would have said, or nothing
            assert ours(architecture, number) in (None, confined), number
    assert checked > 60


def made(architecture: str) -> list[tuple[int, ...]]:
    """Every call; and of x86-64 the calls of x32, and domains of sockets with a bit that the kernel drops."""
    if architecture == "i386":
        return verdicts.calls(architecture)
    sockets = [(SOCKET, domain | high, 1, 0) for domain in (1, 2, AF_ALG, AF_VSOCK) for high in (0, HIGH)]
    return [*verdicts.calls(architecture), *sockets, *((number | X32,) for number in (0, 1, SOCKET, 157, 512))]


def differences(calls: list[tuple[int, ...]], mine: list[int], theirs: list[int]) -> dict[tuple[int, ...], tuple[int, int]]:
    assert len(calls) == len(mine) == len(theirs)
    return {call: (one, other) for call, one, other in zip(calls, mine, theirs, strict=True) if one != other}


@pytest.fixture(params=["x86_64", "i386"])
def architecture(request: pytest.FixtureRequest) -> str:
    if libc.MACHINE != "x86_64":
        pytest.skip("the program that tries the calls is for x86-64")
    return str(request.param)


def run_here(engine: Daemon, architecture: str, *options: str) -> list[int]:
    name = f"every-call-{architecture.replace('_', '-')}"
    if engine.run("image", "inspect", name, check=False).code:
        engine.run("import", "-", name, stdin=verdicts.image(everycall.program(made(architecture))))
    return everycall.results(raw(engine, "run", "--rm", "--net", "none", *options, name, "/calls"))


def raw(engine: Daemon, *arguments: str) -> bytes:
    path = engine.root / "answers"
    with path.open("wb") as file:
        engine.pipe(*arguments, stdout=file)
    return path.read_bytes()


@pytest.mark.root
@pytest.mark.slow
def test_every_call_answers_as_under_runc_with_the_same_profile(engine: Daemon, architecture: str) -> None:
    if not shutil.which("runc"):
        pytest.skip("needs runc")
    found = differences(made(architecture), run_here(engine, architecture), run_here(engine, architecture, "--runtime", "runc"))
    for call, (mine, theirs) in found.items():
        number = call[0] & ~everycall.LEGACY
        too_new = NEWEST_OF_OLD_LIBSECCOMP < number <= verdicts.HIGHEST and theirs == ENOSYS
        x32 = bool(number & X32) and (mine, theirs) == (ENOSYS, EPERM)
        assert too_new or x32, (call, mine, theirs)


@pytest.mark.root
@pytest.mark.slow
def test_every_call_answers_as_under_docker(engine: Daemon, architecture: str) -> None:
    if "PEERS_DOCKER_HOST" not in os.environ or "PEERS_CLIENTS" not in os.environ:
        pytest.skip("needs the real Docker: $PEERS_DOCKER_HOST and $PEERS_CLIENTS")
    calls = made(architecture)
    found = differences(calls, run_here(engine, architecture), verdicts.Docker().run(calls))
    expected: dict[tuple[int, ...], tuple[int, int]] = {call: (ENOSYS, EPERM) for call in calls if call[0] & ~everycall.LEGACY in IO_URING}
    if architecture == "i386":
        expected[(SOCKETCALL | everycall.LEGACY,)] = (ENOSYS, 22)
    else:
        expected[(SOCKET, HIGH | AF_VSOCK, 1, 0)] = (EPERM, 0)  # the hole of Docker's filter
        expected |= {(SOCKET, high | AF_ALG, 1, 0): (EPERM, 97) for high in (0, HIGH)}  # its profile is older than that rule
        expected |= {call: (ENOSYS, EPERM) for call in calls if call[0] & X32 and call in found}
    assert found == expected
