"""What goes wrong with a command, in the words its callers look for."""

from __future__ import annotations


class Failure(Exception):
    """``message`` for the log and for people, ``code`` for the shell."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
