"""The ``hello-world`` image that needs no network: one static program of a few hundred bytes, made here.

The program writes a greeting and exits; its ELF file is put together byte by byte, so that no binary is shipped. The same machine
type always gets the same image id.
"""

from __future__ import annotations

import os
import struct

from wherry.spec import image as spec
from wherry.spec.digest import Digest, sha256
from wherry.spec.reference import Reference
from wherry.tree.tar import Entry
from wherry.tree.tar_writer import Writer

NAME = Reference(domain="docker.io", path="library/hello-world", tag="latest")
CREATED = "2026-01-01T00:00:00Z"
GREETING = """
Hello from Wherry!
This message shows that your installation works.

To print it, Wherry took these steps:
 1. The wherry client asked the wherry daemon to run the image "hello-world".
 2. No registry could be reached, so the daemon took the copy it carries itself.
 3. The daemon made a container from that image: namespaces, a root file system, limits.
 4. The container ran the program you see the output of, and the daemon passed it on
    to the client, which sent it to your terminal.

For something more ambitious, make a base image from your own package sources:
 $ wherry bootstrap debian
 $ wherry run -it debian bash

"""

_BASE = 0x400000
_HEADERS = 64 + 56  # ELF header and one program header
_MACHINES = {"x86_64": (62, "amd64", ""), "aarch64": (183, "arm64", "v8")}


def architectures() -> tuple[str, ...]:
    """The machine types that the image can be made for."""
    return tuple(_MACHINES)


def program(machine: str, text: bytes) -> bytes:
    """A static executable that does write(1, text) and exit(0).  Raises KeyError for an unknown machine type."""
    number = _MACHINES[machine][0]
    code = _amd64(text) if machine == "x86_64" else _arm64(text)
    size = _HEADERS + len(code) + len(text)
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, number, 1, _BASE + _HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x10000)
    return header + segment + code + text


def layer(machine: str) -> bytes:
    """The image's one layer: a tar with ``hello``."""
    binary = program(machine, GREETING.encode())
    out = _Bytes()
    writer = Writer(out)
    writer.add(Entry(name="hello", mode=0o755, size=len(binary)), binary)
    writer.finish()
    return bytes(out.data)


def config(machine: str, diff_id: Digest) -> bytes:
    """The image's config for the layer ``diff_id``."""
    _, architecture, variant = _MACHINES[machine]
    return spec.encode(
        spec.ImageConfig(
            architecture=architecture,
            variant=variant,
            os="linux",
            created=CREATED,
            config=spec.Config(cmd=["/hello"], env=["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], working_dir="/"),
            rootfs=spec.RootFS(diff_ids=[diff_id]),
            history=[
                spec.History(created=CREATED, created_by="COPY hello / # embedded in wherry"),
                spec.History(created=CREATED, created_by='CMD ["/hello"]', empty_layer=True),
            ],
        )
    )


def image(machine: str | None = None) -> tuple[bytes, bytes]:
    """(config, layer tar) for this machine.  Raises KeyError where there is none."""
    kind = machine or os.uname().machine
    tar = layer(kind)
    return config(kind, sha256(tar)), tar


class _Bytes:
    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        self.data += data
        return len(data)


def _amd64(text: bytes) -> bytes:
    """mov edi,1; lea rsi,[rip+n]; mov edx,len; mov eax,1; syscall; xor edi,edi; mov eax,60; syscall."""
    tail = b"\xba" + struct.pack("<I", len(text)) + b"\xb8\x01\0\0\0\x0f\x05" + b"\x31\xff\xb8\x3c\0\0\0\x0f\x05"
    return b"\xbf\x01\0\0\0" + b"\x48\x8d\x35" + struct.pack("<I", len(tail)) + tail


def _arm64(text: bytes) -> bytes:
    """mov x0,#1; adr x1,text; mov x2,#len; mov x8,#64; svc #0; mov x0,#0; mov x8,#93; svc #0."""
    distance = 7 * 4  # from the second instruction to the end of the eighth
    adr = 0x10000000 | (distance & 3) << 29 | (distance >> 2) << 5 | 1
    words = (_movz(0, 1), adr, _movz(2, len(text)), _movz(8, 64), 0xD4000001, _movz(0, 0), _movz(8, 93), 0xD4000001)
    return struct.pack("<8I", *words)


def _movz(register: int, value: int) -> int:
    return 0xD2800000 | value << 5 | register
