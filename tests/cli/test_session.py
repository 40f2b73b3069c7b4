"""Frames to descriptors, and a session over a real socket pair."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.cli.session import Demultiplexer, Session
from wherry.cli.terminal import KeyWatch, detach_keys
from wherry.client.engine import Hijacked


def frame(kind: int, payload: bytes) -> bytes:
    return bytes((kind, 0, 0, 0)) + len(payload).to_bytes(4, "big") + payload


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from((1, 2)), st.binary(max_size=40)), max_size=12), st.integers(1, 30))
def test_frames_cut_anywhere_reach_their_descriptors_whole(frames: list[tuple[int, bytes]], step: int) -> None:
    outputs = [os.memfd_create("out"), os.memfd_create("err")]
    try:
        demultiplexer = Demultiplexer(*outputs)
        stream = b"".join(frame(kind, payload) for kind, payload in frames)
        for start in range(0, len(stream), step):
            demultiplexer.feed(memoryview(stream[start : start + step]))
        for kind, descriptor in zip((1, 2), outputs, strict=True):
            assert os.pread(descriptor, 1 << 16, 0) == b"".join(payload for found, payload in frames if found == kind)
    finally:
        for descriptor in outputs:
            os.close(descriptor)


def test_input_flows_while_output_floods_and_ends_with_half_a_close(tmp_path: Path) -> None:
    """A peer that echoes like ``cat``: it stops reading while nobody takes its output."""
    ours, theirs = socket.socketpair()
    content = os.urandom(4 << 20)
    (tmp_path / "in").write_bytes(content)

    def echo() -> None:
        while piece := theirs.recv(1 << 16):
            theirs.sendall(piece)
        theirs.close()

    peer = threading.Thread(target=echo)
    peer.start()
    saved = os.dup(0), os.dup(1)
    try:
        with open(tmp_path / "in", "rb") as source, open(tmp_path / "out", "wb") as sink:
            os.dup2(source.fileno(), 0)
            os.dup2(sink.fileno(), 1)
            Session(Hijacked(ours, b"", raw=True), stdin=True, tty=False).run()
    finally:
        os.dup2(saved[0], 0)
        os.dup2(saved[1], 1)
        for descriptor in saved:
            os.close(descriptor)
        ours.close()
        peer.join()
    assert (tmp_path / "out").read_bytes() == content


def test_detach_keys_are_seen_across_reads_and_not_in_other_bytes() -> None:
    watch = KeyWatch(detach_keys("ctrl-a,x"))
    assert not watch.seen_in(b"ab\x01")
    assert not watch.seen_in(b"y\x01\x01")
    assert watch.seen_in(b"x")
    assert detach_keys("") == b"\x10\x11"
