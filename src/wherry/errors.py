"""Every error a client may see, by kind.

A class says what the client can do; the message names the object and the fact, in Docker's words where clients match them.
Status numbers appear only in ``api/failures.py``. Rooms below ``engine`` raise built-ins (OSError, ValueError) and turn the
expected ones into these with ``from``.
"""

from __future__ import annotations


class EngineError(Exception):
    """Something a client is told about; ``str(error)`` is the message it reads."""

    @property
    def message(self) -> str:
        return str(self)


class InvalidRequest(EngineError):
    """The request can never succeed as it stands (400)."""


class Unauthorized(EngineError):
    """Credentials are missing or wrong (401)."""


class Forbidden(EngineError):
    """Understood and refused for good (403)."""


class NotFound(EngineError):
    """No such object (404)."""


class Conflict(EngineError):
    """The object's present state forbids it (409)."""


class NotModified(EngineError):
    """The object is already as asked (304)."""


class TooManyRequests(EngineError):
    """Somebody who was asked for the client has been asked too often (429)."""


class NotSupported(EngineError):
    """Wherry does not do this (501)."""


class Unavailable(EngineError):
    """Try again later (503)."""


class Internal(EngineError):
    """The engine or the machine failed at something that was rightly asked (500)."""


def told(error: BaseException) -> str:
    """The text of ``error`` for a client; of the system's errors in Go's words: ``no space left on device``."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    text = error.strerror.lower()
    return f"{error.filename}: {text}" if error.filename else text
