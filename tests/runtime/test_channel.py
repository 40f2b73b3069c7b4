"""Messages and descriptors."""

from __future__ import annotations

import os

import pytest

from wherry.runtime import channel


def test_messages_of_every_size_arrive_with_their_descriptors():
    ours, theirs = channel.pair()
    reader, writer = os.pipe()
    for size in (0, 60_000, 70_000, 3_000_000):
        channel.send(ours, {"text": "x" * size}, [writer])
        message, fds = channel.receive(theirs)
        assert len(message["text"]) == size
        assert not os.get_inheritable(fds[0])
        os.write(fds[0], b"!")
        assert os.read(reader, 9) == b"!"
        for fd in fds:
            os.close(fd)
    for fd in (reader, writer):
        os.close(fd)
    theirs.close()
    with pytest.raises(channel.Closed):
        channel.send(ours, {})
    ours.close()


def test_end_and_emptiness_are_told_apart():
    ours, theirs = channel.pair()
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        channel.receive(theirs)
    ours.close()
    with pytest.raises(channel.Closed):
        channel.receive(theirs)
    theirs.close()


def test_too_much_is_refused():
    ours, theirs = channel.pair()
    with ours, theirs:
        with pytest.raises(ValueError, match="a message of"):
            channel.send(ours, {"text": "x" * (17 << 20)})
        with pytest.raises(ValueError, match="descriptors"):
            channel.send(ours, {}, [0] * 300)
