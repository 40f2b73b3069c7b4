"""A registry's things in a bucket of any S3-compatible store, through boto3 (the extra ``wherry[s3]``).  Blocking.

Credentials and region come from where every S3 client looks: the environment, ``~/.aws``, the machine's role.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from boto3.s3.transfer import TransferConfig
    from mypy_boto3_s3.client import S3Client

_PIECE = 1 << 20
_ABSENT = frozenset({"404", "NoSuchKey", "NotFound"})
_CONNECTIONS = 64
_ATTEMPTS = 5
_PARTS_AT_ONCE = 4  # of 8 MiB, in memory, for each blob on its way


class Bucket:
    """``Objects`` below ``s3://bucket/prefix``."""

    def __init__(self, client: S3Client, bucket: str, prefix: str, *, page: int = 1000) -> None:
        """``page``: keys to ask for at a time."""
        self._client = client
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._page = page

    def check(self) -> None:
        """Raises OSError when the bucket can't be reached."""
        with _translated(self._bucket):
            self._client.head_bucket(Bucket=self._bucket)

    def read(self, key: str) -> bytes:
        with _translated(key):
            data: bytes = self._client.get_object(Bucket=self._bucket, Key=self._name(key))["Body"].read()
            return data

    def size(self, key: str) -> int:
        with _translated(key):
            size: int = self._client.head_object(Bucket=self._bucket, Key=self._name(key))["ContentLength"]
            return size

    def exists(self, key: str) -> bool:
        try:
            self.size(key)
        except FileNotFoundError:
            return False
        return True

    def modified(self, key: str) -> float:
        with _translated(key):
            written: float = self._client.head_object(Bucket=self._bucket, Key=self._name(key))["LastModified"].timestamp()
            return written

    def write(self, key: str, data: bytes) -> None:
        with _translated(key):
            self._client.put_object(Bucket=self._bucket, Key=self._name(key), Body=data)

    def adopt(self, key: str, path: str) -> None:
        with _translated(key):
            self._client.upload_file(path, self._bucket, self._name(key), Config=_transfer())
        os.unlink(path)

    def pieces(self, key: str, start: int, count: int) -> Iterator[bytes]:
        if count == 0:
            return
        with _translated(key):
            wanted = f"bytes={start}-{start + count - 1}"
            body = self._client.get_object(Bucket=self._bucket, Key=self._name(key), Range=wanted)["Body"]
            try:
                yield from body.iter_chunks(_PIECE)
            finally:
                body.close()

    def local_path(self, key: str) -> str | None:
        return None

    def delete(self, key: str) -> None:
        with _translated(key):
            self._client.delete_object(Bucket=self._bucket, Key=self._name(key))

    def children(self, prefix: str) -> list[str]:
        below = self._name(prefix) + "/"
        found: set[str] = set()
        with _translated(prefix):
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._bucket, Prefix=below, Delimiter="/", PaginationConfig={"PageSize": self._page}):
                found.update(entry["Prefix"].removeprefix(below).rstrip("/") for entry in page.get("CommonPrefixes", ()))
                found.update(entry["Key"].removeprefix(below) for entry in page.get("Contents", ()))
        return sorted(found)

    def _name(self, key: str) -> str:
        if not all(key.split("/")) or any(word.startswith(".") for word in key.split("/")):
            raise ValueError(f"not a key: {key[:100]!r}")
        return self._prefix + key


def open_bucket(address: str, *, endpoint: str = "", region: str = "") -> Bucket:
    """``address``: ``s3://bucket`` or ``s3://bucket/prefix``.  Raises ValueError, ModuleNotFoundError, OSError (not reached)."""
    parts = urlsplit(address)
    if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError(f"--s3: {address!r} is not s3://BUCKET or s3://BUCKET/PREFIX")
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("--s3 needs the package boto3: pip install 'wherry[s3]'") from error
    settings = Config(
        max_pool_connections=_CONNECTIONS,
        connect_timeout=10,
        read_timeout=60,
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        s3={"addressing_style": "path" if endpoint else "auto"},
        request_checksum_calculation="when_required",  # many stores that are not Amazon's know no others
        response_checksum_validation="when_required",
    )
    try:
        client = boto3.session.Session().client("s3", endpoint_url=endpoint or None, region_name=region or None, config=settings)
    except (BotoCoreError, ValueError) as error:
        raise ValueError(f"--s3: {error}") from error
    bucket = Bucket(client, parts.netloc, parts.path.strip("/"))
    bucket.check()
    return bucket


def _transfer() -> TransferConfig:
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(max_concurrency=_PARTS_AT_ONCE)


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """What went wrong at the store as an OSError."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        if str(error.response.get("Error", {}).get("Code")) in _ABSENT:
            raise FileNotFoundError(errno.ENOENT, "no such key in the bucket", what) from error
        raise OSError(errno.EIO, str(error), what) from error
    except (BotoCoreError, Boto3Error) as error:
        raise OSError(errno.EIO, str(error), what) from error
