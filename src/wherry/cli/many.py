"""Commands that take several names: each is done, the failures are told, and one failure makes the exit code 1."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def for_each(names: Sequence[str], act: Callable[[str], str | None], *, tolerate: Callable[[Exception], bool] | None = None) -> int:
    """Call ``act`` with every name and print what it returns; errors go to stderr at once; those that ``tolerate`` takes cost nothing."""
    from wherry.cli.main import describe

    status = 0
    for name in names:
        try:
            text = act(name)
        except Exception as error:
            message = describe(error)
            if message is None:
                raise
            sys.stdout.flush()
            sys.stderr.write(message + "\n")
            status = status if tolerate is not None and tolerate(error) else 1
            continue
        if text is not None:
            print(text)
    return status


def is_absent(error: Exception) -> bool:
    """The daemon said that there is no such object."""
    return getattr(error, "status", None) == 404
