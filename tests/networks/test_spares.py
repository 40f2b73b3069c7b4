from __future__ import annotations

import os
import threading

import pytest
from tests.system.waiting import until

from wherry.networks.spares import Spares

pytestmark = pytest.mark.root


@pytest.fixture
def made() -> Spares:
    return Spares()


def test_spares_are_ready_soon_and_each_is_given_once(made: Spares) -> None:
    made.start()
    taken = []
    try:
        for _ in range(5):
            until(lambda: bool(made))
            taken.append(made.take())
        assert len({os.fstat(one.fd).st_ino for one in taken}) == 5
        assert os.stat("/proc/thread-self/ns/net").st_ino not in {os.fstat(one.fd).st_ino for one in taken}
    finally:
        made.close()
        for one in taken:
            one.close()


def test_one_is_made_at_once_when_none_is_ready(made: Spares) -> None:
    assert not made
    made.take().close()
    made.close()


def test_the_end_leaves_neither_a_thread_nor_a_descriptor(made: Spares) -> None:
    threads, descriptors = threading.active_count(), sorted(os.listdir("/proc/self/fd"))
    made.start()
    until(lambda: bool(made))
    made.take().close()
    made.close()
    made.close()
    assert not made
    assert threading.active_count() == threads
    assert sorted(os.listdir("/proc/self/fd")) == descriptors
