"""What a registry says when it does not do what was asked.

Source: OCI distribution-spec 1.1, "Error Codes"; the last two are for what no request is to blame for, which it leaves open.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping

import msgspec
from aiohttp import web

STATUS = {
    "BLOB_UNKNOWN": 404,
    "BLOB_UPLOAD_INVALID": 400,
    "BLOB_UPLOAD_UNKNOWN": 404,
    "DENIED": 403,
    "DIGEST_INVALID": 400,
    "MANIFEST_BLOB_UNKNOWN": 404,
    "MANIFEST_INVALID": 400,
    "MANIFEST_UNKNOWN": 404,
    "NAME_INVALID": 400,
    "NAME_UNKNOWN": 404,
    "SIZE_INVALID": 413,
    "TOOMANYREQUESTS": 429,
    "UNAUTHORIZED": 401,
    "UNSUPPORTED": 405,
    "UNAVAILABLE": 503,
    "UNKNOWN": 500,
}
_WORDS = {
    "BLOB_UNKNOWN": "blob unknown to registry",
    "BLOB_UPLOAD_UNKNOWN": "blob upload unknown to registry",
    "DIGEST_INVALID": "provided digest did not match uploaded content",
    "MANIFEST_BLOB_UNKNOWN": "manifest references a manifest or blob unknown to registry",
    "MANIFEST_UNKNOWN": "manifest unknown",
    "NAME_INVALID": "invalid repository name",
    "NAME_UNKNOWN": "repository name not known to registry",
    "UNAUTHORIZED": "authentication required",
    "UNKNOWN": "internal error: the server's log says more",
    "UNSUPPORTED": "the operation is unsupported",
}
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
INSUFFICIENT_STORAGE = 507


class Failure(Exception):
    """What the client is told.  ``code``: of the specification; ``status``: where it is not the code's usual one."""

    def __init__(
        self, code: str, message: str = "", detail: object = None, *, status: int = 0, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message or _WORDS.get(code, code))
        self.code = code
        self.detail = detail
        self.status = status or STATUS[code]
        self.headers = dict(headers or {})

    def response(self) -> web.Response:
        body = msgspec.json.encode({"errors": [{"code": self.code, "message": str(self), "detail": self.detail}]}, enc_hook=str)
        return web.Response(body=body, status=self.status, headers={"Content-Type": "application/json", **self.headers})


def storage_failure(error: OSError) -> Failure:
    """The disk or bucket did not do what it should."""
    if error.errno in _FULL:
        return Failure("UNAVAILABLE", "no space left to store this", status=INSUFFICIENT_STORAGE)
    return Failure("UNAVAILABLE", "the registry's storage does not answer as it should")
