"""In an interpreter of their own: they move its code about."""

from __future__ import annotations

import subprocess
import sys

_GATHERED = """
import sys
from wherry.runtime import heap, plan, rehearsal, zygote

def pages():
    called = set()
    sys.setprofile(lambda frame, *_: called.add(frame.f_code))
    rehearsal.plan_start()
    sys.setprofile(None)
    return len({page for one in called for page in range(id(one) >> 12, (id(one) + one.__sizeof__() >> 12) + 1)})

before = pages()
held = heap.fill_holes()
heap.gather(rehearsal.plan_start)
print(before, pages())
"""
_ALLOCATED = """
from wherry.runtime import heap

def pages():
    blocks = [bytes(200) for _ in range(50)]
    return len({id(one) >> 12 for one in blocks})

holes = [bytes(200) for _ in range(2000)]
del holes[::20]
before = pages()
held = heap.fill_holes()
print(before, pages())
"""


def test_code_that_is_used_together_lies_together() -> None:
    before, after = _run(_GATHERED)
    assert after < before * 0.9


def test_what_is_allocated_after_the_holes_are_filled_lies_together() -> None:
    before, after = _run(_ALLOCATED)
    assert (before > 20, after) == (True, 4)


def _run(program: str) -> list[int]:
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return [int(number) for number in ran.stdout.split()]
