"""The whole API as one table: method, path, handler.  ``{name}`` matches across slashes, as image names need."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cache

from wherry.api import builds, containers, execs, images, inside, networks, system, volumes
from wherry.api.exchange import Request, Response
from wherry.api.ports import Operations

Handler = Callable[[Operations, Request], Awaitable[Response | None]]


@dataclass(frozen=True, slots=True)
class Route:
    """``cancellable``: is the work given up when the client goes?"""

    method: str
    path: str
    handler: Handler
    cancellable: bool = False


ROUTES = (
    Route("GET", "/_ping", system.ping),
    Route("HEAD", "/_ping", system.ping),
    Route("GET", "/info", system.info),
    Route("GET", "/version", system.version),
    Route("GET", "/system/df", system.disk_usage),
    Route("GET", "/wherry/v1/disk", system.disk_parts),
    Route("GET", "/wherry/v1/prune", system.preview_prune),
    Route("POST", "/wherry/v1/fsck", system.check_store, cancellable=True),
    Route("GET", "/events", system.events, cancellable=True),
    Route("POST", "/auth", images.check_auth),
    Route("GET", "/containers/json", containers.list_all),
    Route("POST", "/containers/create", containers.create),
    Route("POST", "/containers/prune", containers.prune),
    Route("GET", "/containers/{id}/json", containers.inspect),
    Route("GET", "/containers/{id}/top", containers.top),
    Route("GET", "/containers/{id}/logs", containers.logs, cancellable=True),
    Route("GET", "/containers/{id}/changes", containers.changes),
    Route("GET", "/containers/{id}/export", containers.export, cancellable=True),
    Route("GET", "/containers/{id}/stats", containers.stats, cancellable=True),
    Route("POST", "/containers/{id}/resize", containers.resize),
    Route("POST", "/containers/{id}/start", containers.start),
    Route("POST", "/containers/{id}/stop", containers.stop),
    Route("POST", "/containers/{id}/restart", containers.restart),
    Route("POST", "/containers/{id}/kill", containers.kill),
    Route("POST", "/containers/{id}/update", containers.update),
    Route("POST", "/containers/{id}/rename", containers.rename),
    Route("POST", "/containers/{id}/pause", containers.pause),
    Route("POST", "/containers/{id}/unpause", containers.unpause),
    Route("POST", "/containers/{id}/attach", containers.attach),
    Route("GET", "/containers/{id}/attach/ws", containers.attach_websocket),
    Route("POST", "/containers/{id}/wait", containers.wait, cancellable=True),
    Route("POST", "/containers/{id}/exec", execs.create),
    Route("HEAD", "/containers/{id}/archive", containers.stat_path),
    Route("GET", "/containers/{id}/archive", containers.get_archive, cancellable=True),
    Route("PUT", "/containers/{id}/archive", containers.put_archive),
    Route("GET", "/containers/{id}/checkpoints", system.no_checkpoints),
    Route("POST", "/containers/{id}/checkpoints", system.no_checkpoints),
    Route("DELETE", "/containers/{id}/checkpoints/{checkpoint}", system.no_checkpoints),
    Route("DELETE", "/containers/{id}", containers.remove),
    Route("POST", "/exec/{id}/start", execs.start),
    Route("POST", "/exec/{id}/resize", execs.resize),
    Route("GET", "/exec/{id}/json", execs.inspect),
    Route("GET", "/images/json", images.list_all),
    Route("GET", "/images/search", images.search, cancellable=True),
    Route("GET", "/images/get", images.save, cancellable=True),
    Route("POST", "/images/create", images.create, cancellable=True),
    Route("POST", "/images/load", images.load, cancellable=True),
    Route("POST", "/images/prune", images.prune),
    Route("GET", "/images/{name}/json", images.inspect),
    Route("GET", "/images/{name}/history", images.history),
    Route("GET", "/images/{name}/get", images.save, cancellable=True),
    Route("POST", "/images/{name}/push", images.push, cancellable=True),
    Route("POST", "/images/{name}/tag", images.tag),
    Route("DELETE", "/images/{name}", images.remove),
    Route("GET", "/wherry/v1/images/diff", inside.differences, cancellable=True),
    Route("GET", "/wherry/v1/images/{name}/files", inside.files, cancellable=True),
    Route("GET", "/wherry/v1/images/{name}/layers", inside.layers),
    Route("GET", "/wherry/v1/images/{name}/waste", inside.waste, cancellable=True),
    Route("GET", "/distribution/{name}/json", images.distribution, cancellable=True),
    Route("POST", "/commit", images.commit),
    Route("POST", "/build", builds.build, cancellable=True),
    Route("POST", "/build/prune", builds.prune),
    Route("POST", "/build/cancel", builds.cancel),
    Route("POST", "/session", builds.session),
    Route("POST", "/grpc", builds.session),
    Route("GET", "/networks", networks.list_all),
    Route("GET", "/networks/", networks.list_all),
    Route("POST", "/networks/create", networks.create),
    Route("POST", "/networks/prune", networks.prune),
    Route("POST", "/networks/{id}/connect", networks.connect),
    Route("POST", "/networks/{id}/disconnect", networks.disconnect),
    Route("GET", "/networks/{id}", networks.inspect),
    Route("DELETE", "/networks/{id}", networks.remove),
    Route("GET", "/volumes", volumes.list_all),
    Route("POST", "/volumes/create", volumes.create),
    Route("POST", "/volumes/prune", volumes.prune),
    Route("GET", "/volumes/{name}", volumes.inspect),
    Route("PUT", "/volumes/{name}", system.no_swarm),
    Route("DELETE", "/volumes/{name}", volumes.remove),
    Route("GET", "/plugins", system.plugins),
    *(Route(method, "/plugins/{rest}", system.no_plugins) for method in ("GET", "POST", "DELETE")),
    *(
        Route(method, f"/{room}", system.no_swarm)
        for room in ("swarm", "nodes", "services", "tasks", "secrets", "configs")
        for method in ("GET",)
    ),
    *(
        Route(method, f"/{room}/{{rest}}", system.no_swarm)
        for room in ("swarm", "nodes", "services", "tasks", "secrets", "configs")
        for method in ("GET", "POST", "DELETE")
    ),
)


def match(method: str, path: str) -> tuple[Route, Mapping[str, str]] | None:
    """The route for a request, with the named parts of its path; the first that fits."""
    if method == "OPTIONS":
        return Route("OPTIONS", path, system.options), {}
    fixed, patterns = _index()
    if (route := fixed.get((method, path))) is not None:
        return route, {}
    for pattern, route in patterns.get((method, path.split("/", 2)[1]), ()):
        if (found := pattern.fullmatch(path)) is not None:
            return route, found.groupdict()
    return None


@cache
def _index() -> tuple[dict[tuple[str, str], Route], dict[tuple[str, str], list[tuple[re.Pattern[str], Route]]]]:
    """Fixed paths, and patterns by method and first word."""
    fixed: dict[tuple[str, str], Route] = {}
    patterns: dict[tuple[str, str], list[tuple[re.Pattern[str], Route]]] = {}
    for route in ROUTES:
        if "{" not in route.path:
            fixed[route.method, route.path] = route
            continue
        pattern = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>.+)", route.path), re.DOTALL)
        patterns.setdefault((route.method, route.path.split("/", 2)[1]), []).append((pattern, route))
    return fixed, patterns
