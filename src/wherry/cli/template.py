"""Go's text/template, as far as ``--format`` reaches: ``Template(text).render(value)``.

Pure: a template sees only the values it is given, by key and never by attribute; loops burn fuel and output has a cap, because templates
come from scripts. ``template_syntax`` parses, ``template_values`` prints.  Source: Go text/template, docker/cli templates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from wherry.cli import template_nodes as nodes
from wherry.cli.flags import Failure
from wherry.cli.template_syntax import parse
from wherry.cli.template_tokens import SyntaxFault, quote
from wherry.cli.template_values import (
    MISSING,
    NIL_MAP,
    Duration,
    Named,
    Null,
    Record,
    format_value,
    go_type,
    is_true,
    sprintf,
    to_json,
    to_text,
)

FUEL = 2_000_000
MAX_OUTPUT = 64 << 20
MAX_CALLS = 100


class TemplateError(Failure):
    """A template that cannot be parsed or executed; ``str()`` is Go's message."""


class Template:
    """A parsed template; raises TemplateError as it is made or rendered."""

    __slots__ = ("_name", "_tree")

    def __init__(self, text: str, name: str = "") -> None:
        """``name``: as Go's messages call it."""
        self._name = name
        try:
            self._tree = parse(text, _NAMES)
        except SyntaxFault as fault:
            raise TemplateError(str(fault).replace("template: ", f"template: {name}", 1)) from None

    def render(self, value: object, *, strict: bool = False, header: bool = False) -> str:
        """The text for ``value``. ``strict``: a map's missing key is an error; ``header``: functions leave their text as it is."""
        run = _Run(self._tree, value, strict=strict, functions=_HEADER_FUNCTIONS if header else _FUNCTIONS, name=self._name)
        return run.whole()


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


class _Fault(Exception):
    """What went wrong, before the place is known."""


class _Run:
    def __init__(self, tree: nodes.Tree, value: object, *, strict: bool, functions: dict[str, Callable[..., Any]], name: str) -> None:
        self.tree = tree
        self.title = name
        self.root = value
        self.strict = strict
        self.functions = functions
        self.out: list[str] = []
        self.size = 0
        self.fuel = FUEL
        self.calls = 0
        self.name = name  # of the template that is executed: the whole, or one that it defines
        self.variables: list[tuple[str, Any]] = [("$", value)]

    def whole(self) -> str:
        self.walk(self.tree.nodes, self.root)
        return "".join(self.out)

    def fault(self, node: nodes.Node, message: str) -> TemplateError:
        start = self.tree.text.rfind("\n", 0, node.pos) + 1
        column = len(self.tree.text[start : node.pos].encode())
        line = 1 + self.tree.text.count("\n", 0, node.pos)
        return TemplateError(f'template: {self.title}:{line}:{column}: executing "{self.name}" at <{node}>: {message}')

    def burn(self) -> None:
        self.fuel -= 1
        if self.fuel < 0:
            raise TemplateError("template: execution took too many steps")

    def write(self, text: str) -> None:
        self.size += len(text)
        if self.size > MAX_OUTPUT:
            raise TemplateError("template: the output is too large")
        self.out.append(text)

    # --- nodes
    def walk(self, body: list[nodes.Node], dot: Any) -> None:
        for node in body:
            self.burn()
            if isinstance(node, nodes.Text):
                self.write(node.text)
            elif isinstance(node, nodes.Action):
                value = self.pipe(node.pipe, dot)
                if not node.pipe.variables:
                    self.write(to_text(value))
            elif isinstance(node, nodes.Branch):
                self.branch(node, dot)
            elif isinstance(node, nodes.Include):
                self.include(node, dot)
            elif isinstance(node, nodes.Jump):
                raise _Break if node.kind == "break" else _Continue

    def branch(self, node: nodes.Branch, dot: Any) -> None:
        known = len(self.variables)
        if node.kind == "range":
            self.loop(node, dot)
        else:
            value = self.pipe(node.pipe, dot)
            if is_true(value):
                self.walk(node.body, value if node.kind == "with" else dot)
            elif node.otherwise is not None:
                self.walk(node.otherwise, dot)
        del self.variables[known:]

    def loop(self, node: nodes.Branch, dot: Any) -> None:
        declared = node.pipe.variables
        known = len(self.variables)
        value = self.pipe(node.pipe, dot, declare=False)
        empty = True
        for key, item in self.items(node.pipe, value):
            empty = False
            self.burn()
            self.bind(node.pipe, (key, item) if len(declared) > 1 else (key if isinstance(value, int) else item,))
            try:
                self.walk(node.body, item)
            except _Continue:
                pass
            except _Break:
                break
            finally:
                del self.variables[known:]
        if empty and node.otherwise is not None:
            self.walk(node.otherwise, dot)

    def items(self, pipe: nodes.Pipe, value: Any) -> Iterator[tuple[Any, Any]]:
        if isinstance(value, list):
            return iter(enumerate(value))
        if isinstance(value, dict):
            return iter([(key, value[key]) for key in sorted(value)])
        if isinstance(value, int) and not isinstance(value, bool):
            return ((number, number) for number in range(value))
        if value is None or isinstance(value, Null):
            return iter(())
        if value is MISSING:
            return iter(())
        raise self.fault(pipe, f"range can't iterate over {format_value(value)}")

    def bind(self, pipe: nodes.Pipe, values: tuple[Any, ...]) -> None:
        for name, value in zip(pipe.variables, values, strict=False):
            if pipe.assigns:
                self.assign(name, value)
            else:
                self.variables.append((name, value))

    def assign(self, name: str, value: Any) -> None:
        for at in range(len(self.variables) - 1, -1, -1):
            if self.variables[at][0] == name:
                self.variables[at] = (name, value)
                return

    def include(self, node: nodes.Include, dot: Any) -> None:
        body = self.tree.defined.get(node.name)
        if body is None:
            raise self.fault(node, f"template {quote(node.name)} not defined")
        if self.calls >= MAX_CALLS:
            raise self.fault(node, f"exceeded maximum template depth ({MAX_CALLS})")
        value = self.pipe(node.pipe, dot) if node.pipe else MISSING
        variables, self.variables = self.variables, [("$", value)]
        name, self.name = self.name, node.name
        self.calls += 1
        self.walk(body, value)
        self.calls -= 1
        self.variables, self.name = variables, name

    # --- values
    def pipe(self, pipe: nodes.Pipe, dot: Any, *, declare: bool = True) -> Any:
        value: Any = _NOTHING
        for command in pipe.commands:
            value = self.command(command, dot, value)
        if declare:
            self.bind(pipe, (value,))
        return value

    def command(self, command: nodes.Command, dot: Any, final: Any) -> Any:
        self.burn()
        first = command.arguments[0]
        rest = command.arguments[1:]
        if isinstance(first, nodes.Identifier):
            return self.call(first, command, rest, dot, final)
        if isinstance(first, nodes.Field):
            return self.fields(first, dot, first.names, rest, dot, final)
        if isinstance(first, nodes.Chain):
            return self.fields(first, self.operand(first.node, dot), first.names, rest, dot, final)
        if isinstance(first, nodes.Variable) and len(first.names) > 1:
            return self.fields(first, self.variable(first.names[0]), first.names[1:], rest, dot, final)
        if rest or final is not _NOTHING:
            raise self.fault(first, f"can't give argument to non-function {first}")
        if isinstance(first, nodes.Nil):
            raise self.fault(first, "nil is not a command")
        return self.operand(first, dot)

    def operand(self, node: nodes.Node, dot: Any) -> Any:
        if isinstance(node, nodes.Dot):
            return dot
        if isinstance(node, nodes.Literal):
            return node.value
        if isinstance(node, nodes.Field):
            return self.fields(node, dot, node.names, [], dot, _NOTHING)
        if isinstance(node, nodes.Variable):
            return self.fields(node, self.variable(node.names[0]), node.names[1:], [], dot, _NOTHING)
        if isinstance(node, nodes.Chain):
            return self.fields(node, self.operand(node.node, dot), node.names, [], dot, _NOTHING)
        if isinstance(node, nodes.Pipe):
            return self.pipe(node, dot)
        if isinstance(node, nodes.Identifier):
            return self.call(node, node, [], dot, _NOTHING)
        return None

    def variable(self, name: str) -> Any:
        for known, value in reversed(self.variables):
            if known == name:
                return value
        return None

    def fields(self, node: nodes.Node, value: Any, names: list[str], rest: list[nodes.Node], dot: Any, final: Any) -> Any:
        for name in names[:-1]:
            value = self.field(node, value, name)
        if not names:
            return value
        name = names[-1]
        arguments = [self.operand(argument, dot) for argument in rest]
        if final is not _NOTHING:
            arguments.append(final)
        if isinstance(value, Record | Named | Duration) and name in value.methods:
            return self.method(node, name, value.methods[name], arguments)
        value = self.field(node, value, name)
        if arguments:
            raise self.fault(node, f"{name} is not a method but has arguments")
        return value

    def field(self, node: nodes.Node, value: Any, name: str) -> Any:
        self.burn()
        if isinstance(value, Named | Duration) and name in value.methods:
            return self.method(node, name, value.methods[name], [])
        if isinstance(value, Record):
            if name in value:
                return value[name]
            if name in value.methods:
                return self.method(node, name, value.methods[name], [])
            if name in value.optional:
                return value.optional[name]
            if value.go_type and not self.strict:
                raise self.fault(node, f"can't evaluate field {name} in type {value.go_type}")
            raise self.fault(node, f"map has no entry for key {quote(name)}")
        if isinstance(value, dict):
            if name in value:
                return value[name]
            if self.strict:
                raise self.fault(node, f"map has no entry for key {quote(name)}")
            return MISSING
        if value is NIL_MAP and not self.strict:
            return MISSING
        if value is None or value is MISSING or isinstance(value, Null):
            raise self.fault(node, f"nil pointer evaluating interface {{}}.{name}")
        raise self.fault(node, f"can't evaluate field {name} in type {'interface {}' if self.strict else go_type(value)}")

    def call(self, node: nodes.Identifier, command: nodes.Node, rest: list[nodes.Node], dot: Any, final: Any) -> Any:
        if node.name in ("and", "or"):
            return self.shortcut(node, rest, dot, final)
        arguments = [self.operand(argument, dot) for argument in rest]
        if final is not _NOTHING:
            arguments.append(final)
        least, most = _ARITY[node.name]
        if len(arguments) < least or (most is not None and len(arguments) > most):
            want = f"at least {least}" if most is None else str(least if len(arguments) < least else most)
            raise self.fault(node, f"wrong number of args for {node.name}: want {want} got {len(arguments)}")
        self.check_kinds(node, rest, arguments)
        if node.name == "call":
            raise self.fault(command, f"error calling call: non-function {rest[0] if rest else ''} of type {go_type(arguments[0])}")
        return self.invoke(command, node.name, self.functions[node.name], arguments)

    def check_kinds(self, node: nodes.Identifier, rest: list[nodes.Node], arguments: list[Any]) -> None:
        if self.functions is _HEADER_FUNCTIONS:
            return
        for at, (kind, value) in enumerate(zip(_KINDS.get(node.name, ()), arguments, strict=False)):
            if kind is int and isinstance(value, bool):
                pass
            elif isinstance(value, kind) or (kind is list and isinstance(value, Null)):
                continue
            where = rest[at] if at < len(rest) else node
            want = {str: "string", int: "integer", list: "[]string"}[kind]
            if isinstance(where, nodes.Literal):
                raise self.fault(where, f"expected {want}; found {where}")
            raise self.fault(where, f"wrong type for value; expected {want.replace('integer', 'int')}; got {go_type(value)}")

    def shortcut(self, node: nodes.Identifier, rest: list[nodes.Node], dot: Any, final: Any) -> Any:
        if not rest and final is _NOTHING:
            raise self.fault(node, f"wrong number of args for {node.name}: want at least 1 got 0")
        value: Any = None
        for argument in rest:
            value = self.operand(argument, dot)
            if is_true(value) == (node.name == "or"):
                return value
        return value if final is _NOTHING else final

    def method(self, node: nodes.Node, name: str, function: Callable[..., Any], arguments: list[Any]) -> Any:
        code = getattr(function, "__code__", None)
        wanted = code.co_argcount if code is not None else 1
        if wanted != len(arguments):
            raise self.fault(node, f"wrong number of args for {name}: want {wanted} got {len(arguments)}")
        return self.invoke(node, name, function, arguments)

    def invoke(self, node: nodes.Node, name: str, function: Callable[..., Any], arguments: list[Any]) -> Any:
        try:
            return function(*arguments)
        except _Fault as fault:
            raise self.fault(node, f"error calling {name}: {fault}") from None
        except TypeError as error:
            raise self.fault(node, f"error calling {name}: {error}") from None


_NOTHING: Any = object()


# --- functions


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise _Fault(f"wrong type for value; expected string; got {go_type(value)}")


def _integer(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise _Fault(f"wrong type for value; expected int; got {go_type(value)}")


def _title(text: Any) -> str:
    out = []
    start = True
    for char in _text(text):
        out.append(char.upper() if start else char)
        start = char.isspace() or not (char.isalnum() or char == "_")
    return "".join(out)


def _join(values: Any, separator: Any) -> str:
    if isinstance(values, Null):
        return ""
    if not isinstance(values, list):
        raise _Fault(f"wrong type for value; expected []string; got {go_type(values)}")
    return _text(separator).join(_text(value) for value in values)


def _split(text: Any, separator: Any) -> list[str]:
    return _text(text).split(separator) if _text(separator) else list(text)


def _pad(text: Any, before: Any, after: Any) -> str:
    padded = _text(text)
    if max(_integer(before), _integer(after)) > MAX_OUTPUT:
        raise _Fault("too wide")
    return " " * _integer(before) + padded + " " * _integer(after) if padded else ""


def _truncate(text: Any, length: Any) -> str:
    data = _text(text).encode("utf-8", "surrogatepass")
    if _integer(length) < 0:
        raise _Fault(f"slice bounds out of range [:{length}]")
    return text if len(data) < length else data[:length].decode("utf-8", "replace")


def _compare_kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int"
    if isinstance(value, float):
        return "float"
    if isinstance(value, str):
        return "string"
    return "nil" if value is None or value is MISSING or isinstance(value, Null) else "other"


def _equal_pair(left: Any, right: Any) -> bool:
    kinds = (_compare_kind(left), _compare_kind(right))
    if "nil" in kinds:
        return kinds[0] == kinds[1]
    if kinds[0] != kinds[1]:
        raise _Fault(f"incompatible types for comparison: {go_type(left)} and {go_type(right)}")
    if kinds[0] == "other":
        raise _Fault(f"non-comparable type {format_value(left)}: {go_type(left)}")
    return bool(left == right)


def _equal(first: Any, *others: Any) -> bool:
    if not others:
        raise _Fault("missing argument for comparison")
    return any(_equal_pair(first, other) for other in others)


def _less(left: Any, right: Any) -> bool:
    kinds = (_compare_kind(left), _compare_kind(right))
    if kinds[0] != kinds[1]:
        raise _Fault(f"incompatible types for comparison: {go_type(left)} and {go_type(right)}")
    if kinds[0] in ("bool", "nil", "other"):
        raise _Fault("invalid type for comparison")
    return bool(left < right)


def _length(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode("utf-8", "surrogatepass"))
    if isinstance(value, list | dict) and not isinstance(value, Record):
        return len(value)
    if isinstance(value, Null) and value.text != "<nil>":
        return 0
    if value is None or value is MISSING:
        raise _Fault("len of nil pointer")
    raise _Fault(f"len of type {go_type(value)}")


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, str | list):
            data = value.encode() if isinstance(value, str) else value
            if not isinstance(key, int) or isinstance(key, bool):
                raise _Fault(f"cannot index slice/array with {'nil' if key is None else 'type ' + go_type(key)}")
            if not 0 <= key < len(data):
                raise _Fault(f"index out of range: {key}")
            value = data[key]
        elif isinstance(value, dict) and not isinstance(value, Record):
            if not isinstance(key, str):
                raise _Fault(f"value has type {go_type(key)}; should be string")
            value = value.get(key, "" if all(isinstance(item, str) for item in value.values()) else MISSING)
        elif isinstance(value, Null) and value.text == "map[]":
            value = ""
        elif isinstance(value, Null) and value.text == "[]":
            raise _Fault(f"index out of range: {key}")
        elif value is None or value is MISSING or isinstance(value, Null):
            raise _Fault("index of untyped nil" if value is not MISSING else "index of nil pointer")
        else:
            raise _Fault(f"can't index item of type {go_type(value)}")
    return value


def _slice(value: Any, *bounds: Any) -> Any:
    if not isinstance(value, str | list):
        raise _Fault("slice of untyped nil" if value is None else f"can't slice item of type {go_type(value)}")
    if len(bounds) > 3:
        raise _Fault(f"too many slice indexes: {len(bounds)}")
    if len(bounds) == 3 and isinstance(value, str):
        raise _Fault("cannot 3-index slice a string")
    data = value.encode() if isinstance(value, str) else value
    for bound in bounds:
        if not 0 <= _integer(bound) <= len(data):
            raise _Fault(f"index out of range: {bound}")
    low = bounds[0] if bounds else 0
    high = bounds[1] if len(bounds) > 1 else len(data)
    if low > high:
        raise _Fault(f"invalid slice index: {low} > {high}")
    part = data[low:high]
    return part.decode("utf-8", "replace") if isinstance(part, bytes) else part


def _print(*values: Any) -> str:
    """Go's Sprint: a space between two neighbours that are both not strings."""
    out: list[str] = []
    for number, value in enumerate(values):
        if number and not isinstance(value, str) and not isinstance(values[number - 1], str):
            out.append(" ")
        out.append(format_value(value))
    return "".join(out)


def _println(*values: Any) -> str:
    return " ".join(format_value(value) for value in values) + "\n"


def _html(*values: Any) -> str:
    text = _print(*values)
    for char, name in (("&", "&amp;"), ("'", "&#39;"), ('"', "&#34;"), ("<", "&lt;"), (">", "&gt;"), ("\0", "\ufffd")):
        text = text.replace(char, name)
    return text


_JS = {"\\": "\\\\", "'": "\\'", '"': '\\"', "<": "\\u003C", ">": "\\u003E", "&": "\\u0026", "=": "\\u003D"}


def _js(*values: Any) -> str:
    return "".join(_JS.get(char) or (f"\\u{ord(char):04X}" if char < " " else char) for char in _print(*values))


def _urlquery(*values: Any) -> str:
    out = []
    for byte in _print(*values).encode("utf-8", "surrogatepass"):
        char = chr(byte)
        out.append(char if byte < 128 and (char.isalnum() or char in "-_.~") else "+" if char == " " else f"%{byte:02X}")
    return "".join(out)


def _json(value: Any) -> str:
    if isinstance(value, Record) and value.go_type:  # a row of a listing: a type that encodes itself, in Go's default way
        return to_json(dict(value), escape_html=True)
    return to_json(value)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "and": is_true, "or": is_true, "not": lambda value: not is_true(value), "eq": _equal, "ne": lambda a, b: not _equal_pair(a, b),
    "lt": _less, "le": lambda a, b: _less(a, b) or _equal_pair(a, b), "gt": lambda a, b: _less(b, a),
    "ge": lambda a, b: _less(b, a) or _equal_pair(a, b), "len": _length, "index": _index, "slice": _slice, "print": _print,
    "printf": lambda layout, *values: sprintf(_text(layout), values), "println": _println, "html": _html, "js": _js, "urlquery": _urlquery,
    "call": go_type, "json": _json, "split": _split, "join": _join, "title": _title, "lower": lambda text: _text(text).lower(),
    "upper": lambda text: _text(text).upper(), "pad": _pad, "truncate": _truncate,
}  # fmt: skip
_ARITY: dict[str, tuple[int, int | None]] = {
    "and": (1, None), "or": (1, None), "not": (1, 1), "eq": (1, None), "ne": (2, 2), "lt": (2, 2), "le": (2, 2), "gt": (2, 2),
    "ge": (2, 2), "len": (1, 1), "index": (1, None), "slice": (1, None), "print": (0, None), "printf": (1, None), "println": (0, None),
    "html": (0, None), "js": (0, None), "urlquery": (0, None), "call": (1, None), "json": (1, 1), "split": (2, 2), "join": (2, 2),
    "title": (1, 1), "lower": (1, 1), "upper": (1, 1), "pad": (3, 3), "truncate": (2, 2),
}  # fmt: skip
_KINDS: dict[str, tuple[type, ...]] = {
    "upper": (str,), "lower": (str,), "title": (str,), "split": (str, str), "join": (list, str), "pad": (str, int, int),
    "truncate": (str, int), "printf": (str,),
}  # fmt: skip
_NAMES = frozenset(_FUNCTIONS)


def _same(value: Any, *_rest: Any) -> Any:
    return value


# Docker prints a table's header through the same template, where these must leave a column's title alone.
_HEADER_FUNCTIONS = _FUNCTIONS | {name: _same for name in ("json", "split", "join", "title", "lower", "upper", "truncate")}
