"""The nodes of a parsed template of Go's text/template.

A node knows its place in the text, because messages quote it, and prints itself as Go does, because messages quote that too.
Source: Go text/template/parse.
"""

from __future__ import annotations


class Node:
    """A piece of the tree; ``pos`` is its offset in the template's text."""

    __slots__ = ("pos",)

    def __init__(self, pos: int) -> None:
        self.pos = pos


class Text(Node):
    __slots__ = ("text",)

    def __init__(self, pos: int, text: str) -> None:
        super().__init__(pos)
        self.text = text


class Dot(Node):
    __slots__ = ()

    def __str__(self) -> str:
        return "."


class Nil(Node):
    __slots__ = ()

    def __str__(self) -> str:
        return "nil"


class Literal(Node):
    """A string, number or boolean, with the source text it was written as."""

    __slots__ = ("source", "value")

    def __init__(self, pos: int, value: str | int | float | bool, source: str) -> None:
        super().__init__(pos)
        self.value = value
        self.source = source

    def __str__(self) -> str:
        return self.source


class Field(Node):
    """``.A.B`` of the dot."""

    __slots__ = ("names",)

    def __init__(self, pos: int, names: list[str]) -> None:
        super().__init__(pos)
        self.names = names

    def __str__(self) -> str:
        return "".join("." + name for name in self.names)


class Variable(Node):
    """``$x.A.B``; the first name starts with a dollar."""

    __slots__ = ("names",)

    def __init__(self, pos: int, names: list[str]) -> None:
        super().__init__(pos)
        self.names = names

    def __str__(self) -> str:
        return ".".join(self.names)


class Chain(Node):
    """``(pipeline).A.B``."""

    __slots__ = ("names", "node")

    def __init__(self, pos: int, node: Node, names: list[str]) -> None:
        super().__init__(pos)
        self.node = node
        self.names = names

    def __str__(self) -> str:
        inner = f"({self.node})" if isinstance(self.node, Pipe) else str(self.node)
        return inner + "".join("." + name for name in self.names)


class Identifier(Node):
    """The name of a function."""

    __slots__ = ("name",)

    def __init__(self, pos: int, name: str) -> None:
        super().__init__(pos)
        self.name = name

    def __str__(self) -> str:
        return self.name


class Command(Node):
    __slots__ = ("arguments",)

    def __init__(self, pos: int) -> None:
        super().__init__(pos)
        self.arguments: list[Node] = []

    def __str__(self) -> str:
        return " ".join(f"({a})" if isinstance(a, Pipe) else str(a) for a in self.arguments)


class Pipe(Node):
    """Commands joined by ``|``, perhaps declaring or assigning variables."""

    __slots__ = ("assigns", "commands", "variables")

    def __init__(self, pos: int) -> None:
        super().__init__(pos)
        self.assigns = False
        self.variables: list[str] = []
        self.commands: list[Command] = []

    def __str__(self) -> str:
        head = f"{', '.join(self.variables)} {'=' if self.assigns else ':='} " if self.variables else ""
        return head + " | ".join(str(command) for command in self.commands)


class Action(Node):
    __slots__ = ("pipe",)

    def __init__(self, pos: int, pipe: Pipe) -> None:
        super().__init__(pos)
        self.pipe = pipe


class Branch(Node):
    """``if``, ``with`` or ``range``."""

    __slots__ = ("body", "kind", "otherwise", "pipe")

    def __init__(self, pos: int, kind: str, pipe: Pipe, body: list[Node], otherwise: list[Node] | None) -> None:
        super().__init__(pos)
        self.kind = kind
        self.pipe = pipe
        self.body = body
        self.otherwise = otherwise


class Jump(Node):
    """``break`` or ``continue``."""

    __slots__ = ("kind",)

    def __init__(self, pos: int, kind: str) -> None:
        super().__init__(pos)
        self.kind = kind


class Include(Node):
    """``{{template "name" pipeline}}``."""

    __slots__ = ("name", "pipe")

    def __init__(self, pos: int, name: str, pipe: Pipe | None) -> None:
        super().__init__(pos)
        self.name = name
        self.pipe = pipe

    def __str__(self) -> str:
        return f'{{{{template "{self.name}"{" " + str(self.pipe) if self.pipe else ""}}}}}'


class Tree:
    """A parsed template: its text, the nodes of the whole, and the named ones by ``define`` and ``block``."""

    __slots__ = ("defined", "nodes", "text")

    def __init__(self, text: str, nodes: list[Node], defined: dict[str, list[Node]]) -> None:
        self.text = text
        self.nodes = nodes
        self.defined = defined
