"""One request for each of several containers, all at the same time."""

from __future__ import annotations

import sys

from wherry.cli.flags import Invocation
from wherry.cli.main import describe
from wherry.client.engine import ApiError, container_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.client.engine import Query


def at_once(invocation: Invocation, action: str, query: Query | None = None) -> int:
    """POST ``action`` for every argument; print the names that succeeded, and the errors; 1 if any failed."""
    names = invocation.arguments
    requests = [("POST", container_path(name, action), query) for name in names]
    status = 0
    for name, answer in zip(names, invocation.program.engine.call_each(requests), strict=True):
        if isinstance(answer, ApiError):
            sys.stdout.flush()
            print(describe(answer), file=sys.stderr)
            status = 1
        else:
            print(name, flush=True)
    return status
