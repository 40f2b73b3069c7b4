"""Hostile archives: layers and image archives, each with what becomes of it.

Every one is bytes that a client may send. ``REFUSED`` tells a part of the daemon's words; what is not in it loads, and does no harm.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
import struct
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import zstandard

Add = Callable[[tarfile.TarFile], None]
BLOCK = 512


def member(name: str, kind: bytes = tarfile.REGTYPE, *, data: bytes = b"evil", link: str = "", mode: int = 0o777, **pax: str) -> Add:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.pax_headers = kind, link, mode, pax
    info.size = len(data) if kind == tarfile.REGTYPE else 0
    if kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
        info.devmajor, info.devminor = 1, 1
    return lambda tar: tar.addfile(info, io.BytesIO(data) if info.size else None)


def symlink(name: str, target: object) -> Add:
    return member(name, tarfile.SYMTYPE, link=str(target))


def hardlink(name: str, target: object) -> Add:
    return member(name, tarfile.LNKTYPE, link=str(target))


def directory(name: str) -> Add:
    return member(name, tarfile.DIRTYPE)


def tar_with(*adds: Add) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for add in adds:
            add(tar)
    return buffer.getvalue()


def archive_of(*layers: bytes, more: Sequence[Add] = (), **changes: object) -> bytes:
    """What `docker save` writes, of these layers; ``more`` members, ``changes`` to its manifest.json."""
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["true"]},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers]},
    }
    names = [f"{number}/layer.tar" for number in range(len(layers))]
    manifest = [{"Config": "config.json", "RepoTags": ["hostile:latest"], "Layers": names, **changes}]
    return tar_with(
        member("config.json", data=json.dumps(config).encode()),
        *(member(name, data=layer) for name, layer in zip(names, layers, strict=True)),
        member("manifest.json", data=json.dumps(manifest).encode()),
        *more,
    )


def traversals(target: Path) -> dict[str, list[Add]]:
    """Archives that try to reach ``target`` from any directory they are unpacked in."""
    up = "../" * 40
    inside = str(target).lstrip("/")
    deep = "/".join(["d" * 60] * 80)
    return {
        "dotdot": [member(f"{up}{inside}/new")],
        "absolute": [member(f"/{inside}/new")],
        "symlink then through it": [symlink("a", target), member("a/new"), member("a/file")],
        "relative symlink then through it": [symlink("a", f"{up}{inside}"), member("a/new")],
        "symlink twice": [symlink("a", "b"), symlink("b", target), member("a/new")],
        "symlink to a file then over it": [symlink("a", target / "file"), member("a")],
        "hard link to the host": [hardlink("a", target / "file"), member("a")],
        "hard link up": [hardlink("a", f"{up}{inside}/file"), member("a", mode=0o777)],
        "hard link through a symlink": [symlink("s", target), hardlink("a", "s/file"), member("a")],
        "hard link to a symlink": [symlink("s", target / "file"), hardlink("a", "s"), member("a", mode=0o4777)],
        "directory over a symlink": [symlink("a", target), member("a", tarfile.DIRTYPE, mode=0o777), member("a/new")],
        "mode of a symlink's target": [symlink("a", target / "file"), member("a", tarfile.DIRTYPE, mode=0o777)],
        "whiteout of the parent": [member(".wh..."), member(".wh.."), member(".wh.")],
        "whiteout with a path": [member(f".wh.{up}{inside}/file"), member("d/.wh../../../file")],
        "whiteout through a symlink": [symlink("a", target), member("a/.wh.file"), member("a/.wh..wh..opq")],
        "a long way down and up": [member(f"{deep}/x"), member(f"{deep}/{'../' * 200}{inside}/new")],
        "proc": [member("proc/self/cwd/new"), member("proc/self/root/new"), symlink("p", "/proc/self/root"), member(f"p/{inside}/new")],
        "device": [member("disk", tarfile.BLKTYPE), member("mem", tarfile.CHRTYPE), member("pipe", tarfile.FIFOTYPE)],
    }


def header(name: str = "f", size: bytes = b"4", flag: bytes = b"0", uid: bytes = b"0", mtime: bytes = b"0", tail: bytes = b"") -> bytes:
    """A ustar header with fields as they are given."""
    fields = (
        name.encode().ljust(100, b"\0"),
        b"0000644\0",
        uid.ljust(8, b"\0"),
        b"0000000\0",
        size.ljust(12, b"\0"),
        mtime.ljust(12, b"\0"),
    )
    head = b"".join(fields) + b" " * 8 + flag + bytes(100) + b"ustar\x0000" + bytes(64) + bytes(16)
    block = (head + tail).ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def raw(*parts: bytes) -> bytes:
    return b"".join(part + bytes(-len(part) % BLOCK) for part in parts) + bytes(2 * BLOCK)


def pax(*records: bytes, flag: bytes = b"x", size: int = -1) -> bytes:
    body = b"".join(records)
    return header("pax", b"%o" % (len(body) if size < 0 else size), flag) + body + bytes(-len(body) % BLOCK)


def record(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    while len(b"%d %s=%s\n" % (length, key, value)) != length:
        length = len(b"%d %s=%s\n" % (length, key, value))
    return b"%d %s=%s\n" % (length, key, value)


def sparse(*records: tuple[bytes, bytes], data: bytes = b"data") -> bytes:
    return raw(pax(*(record(b"GNU.sparse." + key, value) for key, value in records)), header(size=b"%o" % len(data)), data)


def old_sparse(segments: int, real_size: int) -> bytes:
    """GNU's own format: each extension block claims that another follows."""
    first = b"".join(b"%011o\0%011o\0" % (0, 0) for _ in range(4))
    block = header(size=b"0", flag=b"S")
    block = block[:386] + first + b"\1" + b"%011o\0" % real_size + block[495:]
    block = block[:148] + b" " * 8 + block[156:]
    block = block[:148] + b"%06o\0 " % sum(block) + block[156:]
    extension = b"".join(b"%011o\0%011o\0" % (0, 0) for _ in range(21)) + b"\1" + bytes(7)
    return raw(block + extension * (segments // 21))


def layers(target: Path) -> dict[str, bytes]:
    """Layers by name; ``target``: a directory of the host's that none may reach."""
    made = {name: tar_with(*adds) for name, adds in traversals(target).items()}
    many = b"".join(header(f"d/{number:06}", b"0") for number in range(30_000))
    capability = "\x01\x00\x00\x02" + "\xff" * 8
    return {
        **made,
        "hard link to a directory": tar_with(directory("d"), hardlink("a", "d")),
        "hard link to the root": tar_with(hardlink("a", "/")),
        "hard link to itself": tar_with(hardlink("a", "a")),
        "hard link to what comes later": tar_with(hardlink("a", "b"), member("b")),
        "hard link to a whiteout": tar_with(member("d/.wh.x"), hardlink("d/y", "d/x")),
        "symlinks in a circle, then through them": tar_with(symlink("a", "b"), symlink("b", "a"), member("a/new")),
        "symlink without a target": tar_with(symlink("a", "")),
        "symlink of 4096 bytes": tar_with(symlink("a", "x" * 4096)),
        "directory that becomes a symlink": tar_with(directory("d"), member("d/f"), symlink("d", target), member("d/new")),
        "file, then below it": tar_with(member("a"), member("a/b")),
        "one name ten thousand times": tar_with(*(member("a", data=b"%d" % number) for number in range(10_000))),
        "opaque mark in a file": tar_with(member("a"), member("a/.wh..wh..opq", data=b"")),
        "metadata of AUFS": tar_with(member(".wh..wh.plnk/x"), member(".wh..wh.foo"), member("d/.wh..wh.aufs")),
        "overlayfs's attributes": tar_with(
            *(
                member(name, tarfile.DIRTYPE, data=b"", **{f"SCHILY.xattr.{space}.overlay.{key}": value})
                for space in ("trusted", "user")
                for name, key, value in (("bin", "opaque", "y"), ("etc", "redirect", "/../../.."), ("usr", "metacopy", "x"))
            )
        ),
        "capabilities that are none": tar_with(member("a", **{"SCHILY.xattr.security.capability": capability})),
        "ten thousand attributes": tar_with(member("a", **{f"SCHILY.xattr.user.{number}": "x" for number in range(10_000)})),
        "an attribute of 70 KB": tar_with(member("a", **{"SCHILY.xattr.user.a": "x" * 70_000})),
        "a name of 5000 bytes": tar_with(member("/".join(["x" * 100] * 50))),
        "a name of 256 bytes": tar_with(member("x" * 256)),
        "a name of slashes": tar_with(member("/" * 4000 + "a")),
        "two thousand levels": tar_with(member("d/" * 2000 + "f")),
        "names that are none": tar_with(*(member(name, data=b"") for name in (".", "/", "./", "a/.."))),
        "names of control characters": tar_with(member("a\n\x1b[2J\x07b"), member("\udcff\udcfe")),
        "NUL in a path": raw(pax(record(b"path", b"a\0b")), header(), b"evil"),
        "two paths for one file": raw(pax(record(b"path", b"../../x")), header("././@LongLink", b"2", b"L"), b"b\0", header(), b"evil"),
        "a record longer than its header": raw(pax(b"9999 path=x\n"), header(), b"evil"),
        "a record without an end": raw(pax(b"12 path=xxxx"), header(), b"evil"),
        "a header of 2 MiB": raw(pax(record(b"comment", b"x" * (2 << 20))), header(), b"evil"),
        "a header that claims 1 GiB": raw(pax(size=1 << 30)),
        "a long name that claims 8 EiB": raw(header("././@LongLink", b"\x80" + (2**63 - 1).to_bytes(11, "big"), b"L")),
        "a long name of no file": header("././@LongLink", b"2", b"L") + b"b\0" + bytes(510 + 1024),
        "a global path": raw(pax(record(b"path", b"../../x"), flag=b"g"), header(), b"evil"),
        "a size of 8 EiB": raw(header(size=b"\x80" + (2**63 - 1).to_bytes(11, "big"))),
        "a size of thirty digits": raw(pax(record(b"size", b"9" * 30)), header(), b"evil"),
        "a negative size": raw(header(size=b"\xff" * 12)),
        "a size that is no number": raw(header(size=b"0x10")),
        "an owner beyond 32 bits": raw(pax(record(b"uid", b"4294967296")), header(), b"evil"),
        "a time beyond all": raw(pax(record(b"mtime", b"9" * 19)), header(), b"evil"),
        "an unknown kind": raw(header(flag=b"Z"), b"evil"),
        "a wrong checksum": raw(header()[:148] + b"0000001\0" + header()[156:], b"evil"),
        "half a header": header()[:300],
        "half a file": header(size=b"7777777") + b"evil" * 100,
        "a lone block of zeros": bytes(BLOCK) + header() + b"evil",
        "another archive behind the end": tar_with(member("a")) + tar_with(member("../../../x")),
        "a million segments in GNU's form": old_sparse(1_000_000, 4),
        "a billion segments in PAX 1.0": sparse(
            (b"major", b"1"), (b"minor", b"0"), (b"realsize", b"4"), data=b"1000000000\n".ljust(1 << 16)
        ),
        "a sparse file of 8 EiB": sparse((b"map", b"9223372036854775803,4"), (b"size", b"9223372036854775807")),
        "segments that overlap": sparse((b"map", b"0,2,1,2"), (b"size", b"4")),
        "half a segment": sparse((b"map", b"0,2,1"), (b"size", b"4")),
        "sparse files of 2 TiB in all": b"".join(
            sparse((b"map", b"68719476732,4"), (b"size", b"68719476736"))[: -2 * BLOCK] for _ in range(32)
        )
        + bytes(2 * BLOCK),
        "thirty thousand files": many + bytes(2 * BLOCK),
    }


def streams(_target: Path) -> dict[str, bytes]:
    """What is sent to `docker import`, compressed."""
    plain = tar_with(member("a"))
    window = b"\x28\xb5\x2f\xfd" + bytes([0x00, 0xB8]) + b"\x01\x00\x00"  # a window of 8 GiB, no content
    dictionary = b"\xfd7zXZ\x00\x00\x04\xe6\xd6\xb4\x46\x02\x00\x21\x01\x28\x00\x00\x00"  # LZMA2 with a dictionary of 4 GiB
    return {
        "gzip that goes on as text": gzip.compress(plain) + b"text",
        "gzip cut off": gzip.compress(plain)[:-6],
        "gzip with a wrong sum": gzip.compress(plain)[:-8] + bytes(8),
        "xz cut off": lzma.compress(plain)[:-6],
        "zstd cut off": zstandard.compress(plain)[:-1],
        "zstd with a window of 8 GiB": window,
        "xz with a dictionary of 4 GiB": dictionary + struct.pack("<I", 0) + bytes(64),
        "a bomb of gzip: 256 MiB": _bomb(),
        "gzip in gzip": gzip.compress(gzip.compress(plain)),
        "nothing": b"",
        "noise": bytes(range(256)) * 40,
    }


def _bomb() -> bytes:
    """A file of 256 MiB in 256 KiB: one member's header, then the same compressed MiB of zeros again and again."""
    return gzip.compress(header("zeros", b"%o" % (1 << 28)), 1) + gzip.compress(bytes(1 << 20), 9) * 256 + gzip.compress(bytes(1024))


def outers(target: Path) -> dict[str, bytes]:
    """Whole archives for `docker load`."""
    layer = tar_with(member("a"))

    def of(manifest: object) -> bytes:
        body = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
        return tar_with(member("manifest.json", data=body))

    image = {"Config": "config.json", "RepoTags": ["hostile:latest"], "Layers": ["0/layer.tar"]}
    return {
        "a layer's path leads up": archive_of(layer, Layers=["../../../../../../etc/passwd"]),
        "a layer's path is a link out": archive_of(layer, more=[symlink("0/layer.tar", target / "file")]),
        "links in a circle": archive_of(layer, more=[symlink("config.json", "x"), symlink("x", "config.json")]),
        "fewer layers than diff_ids": archive_of(layer, Layers=[]),
        "another layer than its diff_id": archive_of(layer, Layers=["config.json"]),
        "a manifest of 64 MiB": of(b'[{"Config":"' + b"x" * (64 << 20) + b'"}]'),
        "a manifest of a million brackets": of(b"[" * 1_000_000),
        "a manifest that is no list": of({"a": 1}),
        "a manifest of numbers": of([{"Config": 1, "Layers": [2], "RepoTags": [3]}]),
        "a hundred thousand images": of([image] * 100_000),
        "five thousand layers": archive_of(layer, Layers=["0/layer.tar"] * 5000),
        "a tag with a path": archive_of(layer, RepoTags=["../../x:latest"]),
        "sixty-six thousand members": b"".join(header(f"{number:06}", b"0") for number in range(66_000)) + bytes(1024),
        "an OCI blob under another's name": tar_with(
            member("oci-layout", data=b'{"imageLayoutVersion":"1.0.0"}'),
            member(
                "index.json",
                data=json.dumps(
                    {
                        "schemaVersion": 2,
                        "manifests": [
                            {
                                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                                "digest": "sha256:" + "1" * 64,
                                "size": 2,
                            }
                        ],
                    }
                ).encode(),
            ),
            member("blobs/sha256/" + "1" * 64, data=b"{}"),
        ),
    }


REFUSED: dict[str, str] = {
    "dotdot": "is outside of the root",
    "symlink then through it": "a: no such file or directory",
    "relative symlink then through it": "a: no such file or directory",
    "symlink twice": "a: no such file or directory",
    "hard link to the host": "which does not exist or is no file",
    "hard link up": "is outside of the root",
    "hard link through a symlink": "tar entry 'a' is a hard link to 's/file', which does not exist or is no file",
    "whiteout of the parent": "invalid whiteout '.wh...'",
    "whiteout with a path": "is outside of the root",
    "whiteout through a symlink": "a: no such file or directory",
    "a long way down and up": "tar entry with a name of more than 4096 bytes",
    "hard link to a directory": "tar entry 'a' is a hard link to 'd', which does not exist or is no file",
    "hard link to the root": "tar entry 'a' is a hard link to '/', which does not exist or is no file",
    "hard link to what comes later": "tar entry 'a' is a hard link to 'b', which does not exist or is no file",
    "hard link to a whiteout": "tar entry 'd/y' is a hard link to 'd/x', which does not exist or is no file",
    "symlinks in a circle, then through them": "a: too many levels of symbolic links",
    "symlink without a target": "tar entry 'a' is a symlink with a target of 0 bytes",
    "symlink of 4096 bytes": "tar entry 'a' is a symlink with a target of 4096 bytes",
    "directory that becomes a symlink": "d: no such file or directory",
    "file, then below it": "a: not a directory",
    "opaque mark in a file": "a: not a directory",
    "ten thousand attributes": "tar entry 'a' with too many extended attributes",
    "an attribute of 70 KB": "tar entry 'a' with an extended attribute that is too long",
    "a name of 5000 bytes": "tar entry with a name of more than 4096 bytes",
    "a name of 256 bytes": "file name too long",
    "NUL in a path": "tar entry with a null byte in its name",
    "a record longer than its header": "invalid PAX record",
    "a record without an end": "invalid PAX record",
    "a header of 2 MiB": "extended tar header of 2097169 bytes",
    "a header that claims 1 GiB": "extended tar header of 1073741824 bytes",
    "a long name that claims 8 EiB": "extended tar header of 9223372036854775807 bytes",
    "a long name of no file": "unexpected EOF",
    "a size of 8 EiB": "tar entry 'f' with a size of 9223372036854775807 bytes",
    "a size of thirty digits": "invalid number in a PAX record",
    "a negative size": "tar entry 'f' with a size of -1 bytes",
    "a size that is no number": "invalid tar header: not a number",
    "an owner beyond 32 bits": "tar entry 'f' with owner 4294967296:0",
    "a time beyond all": "tar entry 'f' with an impossible time",
    "an unknown kind": "unknown tar entry type b'Z'",
    "a wrong checksum": "invalid tar header: wrong checksum",
    "half a header": "unexpected EOF",
    "half a file": "unexpected EOF",
    "a lone block of zeros": "invalid tar header: a lone zero block",
    "a million segments in GNU's form": "sparse tar entry with too many segments",
    "a billion segments in PAX 1.0": "sparse tar entry with too many segments",
    "a sparse file of 8 EiB": "sparse tar entry 'f' with a wrong size",
    "segments that overlap": "sparse tar entry 'f' with overlapping segments",
    "half a segment": "sparse tar entry 'f' with half a segment",
    "sparse files of 2 TiB in all": "archive with sparse files of more than 1099511627776 bytes",
    "gzip that goes on as text": "unexpected EOF",
    "gzip cut off": "unexpected EOF",
    "gzip with a wrong sum": "gzip: Error -6 Incorrect checksum found",
    "xz cut off": "unexpected EOF",
    "zstd cut off": "unexpected EOF",
    "zstd with a window of 8 GiB": "Frame requires too much memory for decoding",
    "xz with a dictionary of 4 GiB": "xz: Corrupt input data",
    "gzip in gzip": "unexpected EOF",
    "noise": "invalid tar header: wrong checksum",
    "a layer's path leads up": "no file '../../../../../../etc/passwd' in it",
    "a layer's path is a link out": "no file '0/layer.tar' in it",
    "links in a circle": "no file 'config.json' in it",
    "fewer layers than diff_ids": "layers length mismatch: expected 0, got 1",
    "another layer than its diff_id": "unexpected EOF",
    "a manifest of 64 MiB": "'manifest.json' is larger than 8388608 bytes",
    "a manifest of a million brackets": "too many values in one document",
    "a manifest that is no list": "not a list of images",
    "a manifest of numbers": "Config, RepoTags or Layers is not what it should be",
    "a hundred thousand images": "'manifest.json' is larger than 8388608 bytes",
    "five thousand layers": "Config, RepoTags or Layers is not what it should be",
    "a tag with a path": 'invalid tag "../../x:latest": invalid reference format',
    "sixty-six thousand members": "archive has more than 65536 entries",
    "an OCI blob under another's name": "is not the one it is named after",
}
