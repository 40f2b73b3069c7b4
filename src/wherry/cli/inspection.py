"""``inspect``: objects as indented JSON, or through a template.

Docker runs the template on its Go structs first and, where that fails, on the plain JSON with missing keys an error: ``typed`` gives the
first view, so that both ``{{if .State.Health}}`` and its messages are the same.
"""

from __future__ import annotations

from wherry.cli.flags import Failure
from wherry.client import jsontext
from wherry.client.engine import ApiError
from wherry.client.http import ConnectError, ProtocolError

TYPE_CHECKING = False  # typing costs 8 ms to import

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from wherry.cli.template import Template


class Inspector:
    """Collects objects one by one; ``text()`` is what goes to stdout.  Raises TemplateError as it is made, for a bad template.

    ``go_type``: the struct's name, for objects whose plain JSON Docker does not try.
    """

    def __init__(self, layout: str, go_type: str = "") -> None:
        self._layout = layout
        self._go_type = go_type
        self._template: Template | None = None
        if layout and layout != "json":
            from wherry.cli.template import Template

            self._template = Template(layout)
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
        from wherry.cli.template import TemplateError
        from wherry.cli.typed import typed

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


def run_inspect(layout: str, names: Sequence[str], fetch: Callable[[str], Any], go_type: str = "") -> int:
    """Print what ``fetch`` finds for each of ``names``, then every failure; the exit code."""
    import sys

    from wherry.cli.main import describe

    try:
        inspector = Inspector(layout, go_type)
    except Failure as error:
        raise Failure(f"template parsing error: {error}", 64) from None
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
