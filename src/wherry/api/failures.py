"""Error class -> status: the only place where the numbers of failures stand."""

from __future__ import annotations

import errno
import logging

from wherry import errors
from wherry.api.wire import Malformed

log = logging.getLogger(__name__)

STATUSES: dict[type[errors.EngineError], int] = {
    errors.NotModified: 304,
    errors.InvalidRequest: 400,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.TooManyRequests: 429,
    errors.Internal: 500,
    errors.NotSupported: 501,
    errors.Unavailable: 503,
}

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)  # the machine's fault, not ours


def explain(error: Exception) -> tuple[int, str]:
    """The status and message for ``error``.  One that is no EngineError is a bug: 500, logged with its traceback."""
    if isinstance(error, errors.EngineError):
        return next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), 500), error.message
    if isinstance(error, Malformed):
        return error.status, str(error)
    if isinstance(error, OSError) and error.errno in _DISK:
        log.error("request failed: %s", error)
        return 500, errors.told(error)
    log.error("request failed", exc_info=error)
    return 500, str(error) or type(error).__name__
