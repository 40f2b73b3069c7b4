"""``inspect``: objects as indented JSON, or through a template.

Docker runs the template on its Go structs first and, where that fails, on the plain JSON with missing keys an error: ``typed`` gives the
first view (which maps are free-form, what an absent field is), so that both ``{{if .State.Health}}`` and its messages are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from wherry.cli.flags import Failure
from wherry.cli.template import Template, TemplateError
from wherry.cli.template_values import NIL_LIST, NIL_MAP, NIL_POINTER, Null, Record
from wherry.client import jsontext
from wherry.client.engine import ApiError
from wherry.client.http import ConnectError, ProtocolError

_MAPS = frozenset((
    "Annotations", "AuxiliaryAddresses", "Containers", "Data", "DriverOpts", "ExposedPorts", "Labels", "Networks", "Options",
    "PortBindings", "Ports", "StorageOpt", "Sysctls", "Tmpfs", "Volumes",
))  # fmt: skip
_POINTERS = frozenset((
    "Descriptor", "Health", "Healthcheck", "IPAMConfig", "Init", "MemorySwappiness", "OomKillDisable", "PidsLimit", "StopTimeout",
    "UsageData",
))  # fmt: skip
_ABSENT: dict[str, Any] = {
    "Annotations": NIL_MAP, "Author": "", "Comment": "", "Container": "", "Descriptor": NIL_POINTER, "DockerVersion": "",
    "ExposedPorts": NIL_MAP, "Health": NIL_POINTER, "Healthcheck": NIL_POINTER, "Init": NIL_POINTER, "MacAddress": "", "Mounts": NIL_LIST,
    "OnBuild": NIL_LIST, "Options": NIL_MAP, "Shell": NIL_LIST, "StopSignal": "", "StopTimeout": NIL_POINTER, "StorageOpt": NIL_MAP,
    "Sysctls": NIL_MAP, "Tmpfs": NIL_MAP, "UsageData": NIL_POINTER, "Variant": "",
}  # fmt: skip


class Inspector:
    """Collects objects one by one; ``text()`` is what goes to stdout.  Raises TemplateError as it is made, for a bad template.

    ``go_type``: the struct's name, for objects whose plain JSON Docker does not try.
    """

    def __init__(self, layout: str, go_type: str = "") -> None:
        self._layout = layout
        self._go_type = go_type
        self._template = Template(layout) if layout and layout != "json" else None
        self._strict = False
        self._objects: list[Any] = []
        self._lines: list[str] = []

    def add(self, found: Any) -> None:
        """Take one object, as parsed JSON.  Raises TemplateError where the template fails on it."""
        if self._template is None:
            self._objects.append(found)
        else:
            self._lines.append(self._render(self._template, found) + "\n")

    def _render(self, template: Template, found: Any) -> str:
        view = typed(found)
        if self._go_type:
            view.go_type = self._go_type
        try:
            return template.render(view, strict=self._strict)
        except TemplateError as error:
            if self._go_type:
                raise TemplateError(f"template parsing error: {error}") from None
            self._strict = True
            try:
                return template.render(found, strict=True)
            except TemplateError as error:
                raise TemplateError(f"template parsing error: {error}") from None

    def text(self) -> str:
        if self._template is not None:
            return "".join(self._lines) or "\n"
        if self._layout == "json":
            return jsontext.dump(self._objects) + "\n"
        return jsontext.pretty(self._objects) + "\n"


def typed(value: Any, name: str = "", parent: str = "") -> Any:
    """``value`` as Go's structs would show it: objects are Records, but for the maps whose keys are the user's."""
    if isinstance(value, dict):
        free = name in _MAPS or (name == "Config" and parent == "LogConfig")
        items = {key: typed(item, "" if free else key, name) for key, item in value.items()}
        return items if free else Record(items, optional=_ABSENT)
    if isinstance(value, list):
        return [typed(item, "", name) for item in value]
    return _null(name) if value is None else value


def _null(name: str) -> Null:
    return NIL_MAP if name in _MAPS else NIL_POINTER if name in _POINTERS else NIL_LIST


def run_inspect(layout: str, names: Sequence[str], fetch: Callable[[str], Any], go_type: str = "") -> int:
    """Print what ``fetch`` finds for each of ``names``, then every failure; the exit code."""
    import sys

    from wherry.cli.main import describe

    try:
        inspector = Inspector(layout, go_type)
    except TemplateError as error:
        raise TemplateError(f"template parsing error: {error}", 64) from None
    problems: list[str] = []
    for name in names:
        try:
            inspector.add(fetch(name))
        except Failure as error:
            problems.append(str(error))
        except (ApiError, ConnectError, ProtocolError) as error:
            problems.append(describe(error) or str(error))
    sys.stdout.write(inspector.text())
    if problems:
        sys.stdout.flush()
        sys.stderr.write("\n".join(problems) + "\n")
    return 1 if problems else 0
