"""What the stages of one build share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from wherry.build.cache import Cache
from wherry.build.failures import BuildFailed
from wherry.build.graph import Graph
from wherry.build.inputs import Inputs, Origin
from wherry.build.progress import Progress
from wherry.build.services import BaseImage, BuildRequest, BuildServices
from wherry.build.steps import Steps
from wherry.errors import EngineError


@dataclass(slots=True, kw_only=True)
class Work:
    """What all stages of one build share.  ``name``: what the build is called, so that the cache can compare it with the last one."""

    request: BuildRequest
    services: BuildServices
    graph: Graph
    cache: Cache
    steps: Steps
    inputs: Inputs
    arguments: Mapping[str, str]
    progress: Progress
    name: str
    counted: int = 0
    reused: int = 0
    images: dict[str, asyncio.Task[BaseImage]] = field(default_factory=dict)
    emptied: set[str] = field(default_factory=set)
    told: list[EngineError] = field(default_factory=list)


def not_found(name: str, path: str, origin: Origin) -> BuildFailed:
    """For a source that is not there: ``name`` is the instruction's."""
    plain = path.strip("/")
    where = "file not found in build context or excluded by .dockerignore: " if origin.is_context else ""
    return BuildFailed(
        f"{name} failed: {where}stat {plain}: file does not exist",
        detail=f'failed to compute cache key: failed to calculate checksum of ref: "/{plain}": not found',
    )


def now() -> str:
    """The time as Go writes it into image configs."""
    ns = time.time_ns()
    moment = datetime.fromtimestamp(ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f"{ns % 10**9:09d}".rstrip("0")
    return f"{moment}.{fraction}Z" if fraction else f"{moment}Z"
