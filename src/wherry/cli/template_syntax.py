"""The syntax of Go's text/template: text in, a tree of nodes out.

Nothing is evaluated here. Positions are kept because messages quote them, and every node prints itself as Go does, because messages
quote that too.  Source: Go text/template/parse.
"""

from __future__ import annotations

MAX_DEPTH = 100
_SPACE = " \t\r\n"
_KEYWORDS = frozenset(("block", "break", "continue", "define", "else", "end", "if", "range", "nil", "template", "with"))


class SyntaxFault(Exception):
    """The template cannot be parsed; ``str()`` is Go's message, ``template: :1: ...``."""


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


def parse(text: str, functions: frozenset[str]) -> Tree:
    """Parse ``text``, where ``functions`` may be called.  Raises SyntaxFault."""
    parser = _Parser(text, _tokens(text), functions)
    return Tree(text, parser.whole(), parser.defined)


class _Token:
    __slots__ = ("kind", "pos", "text")

    def __init__(self, kind: str, text: str, pos: int) -> None:
        self.kind = kind  # text left right space | ( ) := = , string char number bool field dot variable identifier keyword eof
        self.text = text
        self.pos = pos

    def __str__(self) -> str:
        if self.kind == "eof":
            return "EOF"
        if self.kind in ("keyword", "dot"):
            return f"<{self.text}>"
        return quote(self.text[:10]) + "..." if len(self.text) > 10 else quote(self.text)


def quote(text: str) -> str:
    """``text`` as a Go string literal."""
    out = ['"']
    for char in text:
        out.append(_ESCAPES.get(char) or (char if char.isprintable() else _numeric_escape(ord(char))))
    out.append('"')
    return "".join(out)


_ESCAPES = {
    '"': '\\"', "\\": "\\\\", "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v",
}  # fmt: skip


def _numeric_escape(code: int) -> str:
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _fault(text: str, pos: int, message: str) -> SyntaxFault:
    line = 1 + text.count("\n", 0, pos)
    return SyntaxFault(f"template: :{line}: {message}")


def _tokens(text: str) -> list[_Token]:
    """All tokens; a lexical fault is the last token, so that an earlier fault of the grammar is told first."""
    out: list[_Token] = []
    try:
        _read_tokens(text, out)
    except SyntaxFault as fault:
        out.append(_Token("fault", str(fault), len(text)))
    return out


def _read_tokens(text: str, out: list[_Token]) -> None:
    at = 0
    trim = False
    while True:
        start = text.find("{{", at)
        end = len(text) if start < 0 else start
        piece = text[at:end]
        if trim:
            kept = piece.lstrip(_SPACE)
            at += len(piece) - len(kept)
            piece = kept
        opened = start + 2
        if start >= 0 and text[opened : opened + 1] == "-" and text[opened + 1 : opened + 2] in tuple(_SPACE):
            piece = piece.rstrip(_SPACE)
            opened += 1
        if piece:
            out.append(_Token("text", piece, at))
        if start < 0:
            out.append(_Token("eof", "", len(text)))
            return
        body = opened + 1 if opened > start + 2 else opened
        if text.startswith("/*", body):
            at, trim = _comment(text, body)
        else:
            out.append(_Token("left", "{{", start))
            at, trim = _action(text, opened, out)


def _comment(text: str, start: int) -> tuple[int, bool]:
    end = text.find("*/", start + 2)
    if end < 0:
        raise _fault(text, start, "unclosed comment")
    end += 2
    if text.startswith("}}", end):
        return end + 2, False
    if text[end : end + 1] in tuple(_SPACE) and text.startswith("-}}", end + 1):
        return end + 4, True
    raise _fault(text, start, "comment ends before closing delimiter")


_PUNCTUATION = {"|": "|", "=": "=", ",": ",", "(": "(", ")": ")"}


def _action(text: str, at: int, out: list[_Token]) -> tuple[int, bool]:
    """Read tokens up to the closing braces; returns where text goes on, and whether its leading space is trimmed."""
    depth = 0
    size = len(text)
    while True:
        if text.startswith("}}", at):
            if depth:
                raise _fault(text, at, "unclosed left paren")
            out.append(_Token("right", "}}", at))
            return at + 2, False
        if at >= size:
            raise _fault(text, at, "unclosed action")
        char = text[at]
        start = at
        if char in _SPACE:
            while at < size and text[at] in _SPACE:
                at += 1
            if text.startswith("-}}", at):
                if depth:
                    raise _fault(text, at, "unclosed left paren")
                out.append(_Token("right", "-}}", at))
                return at + 3, True
            out.append(_Token("space", text[start:at], start))
            continue
        if char == ":":
            if not text.startswith(":=", at):
                raise _fault(text, at, "expected :=")
            at += 2
            out.append(_Token(":=", ":=", start))
        elif char in _PUNCTUATION:
            depth += (char == "(") - (char == ")")
            if depth < 0:
                raise _fault(text, at, "unexpected right paren")
            at += 1
            out.append(_Token(_PUNCTUATION[char], char, start))
        elif char in "\"'":
            at = _quoted(text, at, char)
            out.append(_Token("string" if char == '"' else "char", text[start:at], start))
        elif char == "`":
            at = text.find("`", at + 1) + 1
            if not at:
                raise _fault(text, start, "unterminated raw quoted string")
            out.append(_Token("string", text[start:at], start))
        elif char == "$" or (char == "." and not text[at + 1 : at + 2].isdigit()):
            at = _word_end(text, at + 1)
            _check_end(text, at, "field" if char == "." else "variable")
            out.append(_Token(("variable" if char == "$" else "field" if at > start + 1 else "dot"), text[start:at], start))
        elif char.isdigit() or char in "+-.":
            at = _number_end(text, at)
            out.append(_Token("number", text[start:at], start))
        elif char == "_" or char.isalpha():
            at = _word_end(text, at)
            _check_end(text, at, "identifier")
            word = text[start:at]
            out.append(_Token("keyword" if word in _KEYWORDS else "bool" if word in ("true", "false") else "identifier", word, start))
        elif char.isascii() and char.isprintable():
            at += 1
            out.append(_Token("other", char, start))
        else:
            raise _fault(text, at, f"unrecognized character in action: U+{ord(char):04X}" + (f" '{char}'" if char.isprintable() else ""))


def _quoted(text: str, at: int, mark: str) -> int:
    kind = "quoted string" if mark == '"' else "character constant"
    start = at
    at += 1
    while at < len(text) and text[at] != "\n":
        if text[at] == mark:
            return at + 1
        at += 2 if text[at] == "\\" else 1
    raise _fault(text, start, f"unterminated {kind}")


def _word_end(text: str, at: int) -> int:
    while at < len(text) and (text[at] == "_" or text[at].isalnum()):
        at += 1
    return at


def _check_end(text: str, at: int, what: str) -> None:
    if at < len(text) and text[at] not in " \t\r\n.,|:)(=" and not text.startswith("}}", at):
        char = text[at]
        raise _fault(text, at, f"bad character U+{ord(char):04X}" + (f" '{char}'" if char.isprintable() else ""))


def _number_end(text: str, at: int) -> int:
    start = at
    if text[at] in "+-":
        at += 1
    while at < len(text) and (text[at].isalnum() or text[at] in "._" or (text[at] in "+-" and text[at - 1] in "eEpP")):
        at += 1
    if not any(char.isdigit() for char in text[start:at]):
        raise _fault(text, start, f"bad number syntax: {quote(text[start : at or 1])}")
    return at


class _Parser:
    def __init__(self, text: str, tokens: list[_Token], functions: frozenset[str]) -> None:
        self.text = text
        self.tokens = tokens
        self.at = 0
        self.functions = functions
        self.defined: dict[str, list[Node]] = {}
        self.variables = ["$"]
        self.depth = 0
        self.loops = 0

    # --- tokens
    def next(self) -> _Token:
        token = self.tokens[self.at]
        if token.kind == "fault":
            raise SyntaxFault(token.text)
        if token.kind != "eof":
            self.at += 1
        return token

    def peek(self) -> _Token:
        return self.tokens[self.at]

    def skip_space(self) -> _Token:
        while self.tokens[self.at].kind == "space":
            self.at += 1
        return self.tokens[self.at]

    def next_word(self) -> _Token:
        self.skip_space()
        return self.next()

    def fault(self, message: str, token: _Token | None = None) -> SyntaxFault:
        return _fault(self.text, (token or self.peek()).pos, message)

    def unexpected(self, token: _Token, where: str) -> SyntaxFault:
        if token.kind == "fault":
            return SyntaxFault(token.text)
        return self.fault(f"unexpected {token} in {where}", token)

    def expect_end_of_action(self, where: str) -> None:
        token = self.next_word()
        if token.kind != "right":
            raise self.unexpected(token, where)

    # --- lists
    def whole(self) -> list[Node]:
        nodes, stop = self.list_of_nodes(top=True)
        if stop != "eof":
            raise self.fault(f"unexpected {{{{{stop}}}}}")
        return nodes

    def list_of_nodes(self, *, top: bool = False) -> tuple[list[Node], str]:
        """Nodes up to ``end``, ``else`` (its keyword read, not what follows) or the end of the text."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.fault("too many levels of nesting")
        nodes: list[Node] = []
        while True:
            token = self.next()
            if token.kind == "eof":
                if not top:
                    raise self.fault("unexpected EOF", token)
                break
            if token.kind == "text":
                nodes.append(Text(token.pos, token.text))
                continue
            word = self.skip_space()
            if word.kind == "keyword" and word.text in ("end", "else"):
                self.next()
                self.depth -= 1
                if word.text == "end":
                    self.expect_end_of_action("end")
                return nodes, word.text
            node = self.action(top=top)
            if node is not None:
                nodes.append(node)
        self.depth -= 1
        return nodes, "eof"

    def action(self, *, top: bool) -> Node | None:
        word = self.peek()
        if word.kind == "keyword" and word.text != "nil":
            self.next()
            if word.text in ("if", "with", "range"):
                return self.branch(word)
            if word.text in ("break", "continue"):
                self.expect_end_of_action(f"{{{{{word.text}}}}}")
                if not self.loops:
                    raise self.fault(f"{{{{{word.text}}}}} outside {{{{range}}}}", word)
                return Jump(word.pos, word.text)
            if word.text == "template":
                return self.include()
            if word.text == "block":
                return self.block(word)
            if not top:
                raise self.fault("unexpected {{define}}", word)
            self.define()
            return None
        pos = word.pos
        return Action(pos, self.pipeline("command", "right"))

    def branch(self, word: _Token) -> Branch:
        known = len(self.variables)
        pipe = self.pipeline(word.text, "right", ranged=word.text == "range")
        self.loops += word.text == "range"
        body, stop = self.list_of_nodes()
        self.loops -= word.text == "range"
        otherwise: list[Node] | None = None
        if stop == "else":
            otherwise = self.otherwise(word.text)
        del self.variables[known:]
        return Branch(word.pos, word.text, pipe, body, otherwise)

    def otherwise(self, kind: str) -> list[Node]:
        token = self.skip_space()
        if token.kind == "keyword" and token.text == kind and kind in ("if", "with"):
            self.next()
            self.depth += 1
            if self.depth > MAX_DEPTH:
                raise self.fault("too many levels of nesting")
            node = self.branch(token)
            self.depth -= 1
            return [node]
        self.expect_end_of_action("else")
        nodes, stop = self.list_of_nodes()
        if stop != "end":
            raise self.fault("expected end; found {{else}}")
        return nodes

    def name(self, where: str) -> str:
        token = self.next_word()
        if token.kind != "string":
            raise self.unexpected(token, where)
        return self.unquote(token)

    def define(self) -> None:
        name = self.name("define clause")
        self.expect_end_of_action("define clause")
        self.body_of(name, "define clause")

    def body_of(self, name: str, where: str) -> None:
        variables, self.variables = self.variables, ["$"]
        loops, self.loops = self.loops, 0
        nodes, stop = self.list_of_nodes()
        self.variables, self.loops = variables, loops
        if stop != "end":
            raise self.fault(f"unexpected {{{{else}}}} in {where}")
        if name in self.defined and any(not isinstance(node, Text) or node.text.strip() for node in self.defined[name]):
            raise self.fault(f"multiple definition of template {quote(name)}")
        self.defined[name] = nodes

    def include(self) -> Include:
        pos = self.skip_space().pos
        name = self.name("template clause")
        pipe = None
        if self.skip_space().kind == "right":
            self.next()
        else:
            pipe = self.pipeline("template clause", "right")
        return Include(pos, name, pipe)

    def block(self, word: _Token) -> Include:
        name = self.name("block clause")
        pipe = self.pipeline("block clause", "right")
        self.body_of(name, "block clause")
        return Include(word.pos, name, pipe)

    # --- pipelines
    def pipeline(self, where: str, end: str, *, ranged: bool = False) -> Pipe:
        pipe = Pipe(self.skip_space().pos)
        self.declarations(pipe, where, ranged=ranged)
        while True:
            token = self.skip_space()
            if token.kind == end:
                self.next()
                self.check_pipeline(pipe, where, token)
                return pipe
            if token.kind in ("bool", "char", "dot", "field", "identifier", "number", "keyword", "string", "variable", "("):
                pipe.commands.append(self.command())
            else:
                raise self.unexpected(token, where)

    def declarations(self, pipe: Pipe, where: str, *, ranged: bool) -> None:
        start = self.at
        found: list[str] = []
        while self.skip_space().kind == "variable":
            found.append(self.next().text)
            token = self.skip_space()
            if token.kind in (":=", "="):
                self.next()
                pipe.assigns = token.kind == "="
                pipe.variables = found
                if pipe.assigns:
                    for name in found:
                        self.known(name, token)
                else:
                    self.variables.extend(found)
                return
            if token.kind != "," or not ranged or len(found) > 1:
                if token.kind == ",":
                    raise self.fault(f"too many declarations in {where}", token)
                break
            self.next()
        self.at = start

    def check_pipeline(self, pipe: Pipe, where: str, token: _Token) -> None:
        if not pipe.commands:
            raise self.fault(f"missing value for {where}", token)
        for number, command in enumerate(pipe.commands[1:], 2):
            if isinstance(command.arguments[0], Literal | Dot | Nil):
                raise self.fault(f"non executable command in pipeline stage {number}", token)

    def command(self) -> Command:
        command = Command(self.skip_space().pos)
        while True:
            self.skip_space()
            operand = self.operand()
            if operand is not None:
                command.arguments.append(operand)
            token = self.next()
            if token.kind == "space":
                continue
            if token.kind in ("right", ")"):
                self.at -= 1
            elif token.kind != "|":
                raise self.unexpected(token, "operand")
            break
        if not command.arguments:
            raise self.fault("empty command")
        return command

    def operand(self) -> Node | None:
        node = self.term()
        if node is None:
            return None
        if self.peek().kind != "field":
            return node
        pos = self.peek().pos
        names: list[str] = []
        while self.peek().kind == "field":
            names.append(self.next().text[1:])
        if isinstance(node, Field):
            return Field(pos, node.names + names)
        if isinstance(node, Variable):
            return Variable(pos, node.names + names)
        if isinstance(node, Literal | Nil | Dot):
            raise self.fault(f"unexpected . after term {quote(str(node))}")
        return Chain(pos, node, names)

    def term(self) -> Node | None:
        token = self.next_word()
        kind = token.kind
        if kind == "identifier":
            if token.text not in self.functions:
                raise self.fault(f"function {quote(token.text)} not defined", token)
            return Identifier(token.pos, token.text)
        if kind == "dot":
            return Dot(token.pos)
        if kind == "keyword" and token.text == "nil":
            return Nil(token.pos)
        if kind == "variable":
            self.known(token.text, token)
            return Variable(token.pos, [token.text])
        if kind == "field":
            return Field(token.pos, [token.text[1:]])
        if kind == "bool":
            return Literal(token.pos, token.text == "true", token.text)
        if kind in ("number", "char"):
            return Literal(token.pos, self.number(token), token.text)
        if kind == "string":
            return Literal(token.pos, self.unquote(token), token.text)
        if kind == "(":
            self.depth += 1
            if self.depth > MAX_DEPTH:
                raise self.fault("too many levels of nesting", token)
            pipe = self.pipeline("parenthesized pipeline", ")")
            self.depth -= 1
            return pipe
        self.at -= kind != "eof"
        return None

    def known(self, name: str, token: _Token) -> None:
        if name not in self.variables:
            raise self.fault(f"undefined variable {quote(name)}", token)

    def number(self, token: _Token) -> int | float:
        text = token.text
        if token.kind == "char":
            value = self.unescape(token, text[1:-1])
            if len(value) != 1:
                raise self.fault(f"malformed character constant: {text}", token)
            return ord(value)
        try:
            return int(text.replace("_", ""), 8) if text.lstrip("+-")[1:2].isdigit() and text.lstrip("+-")[0] == "0" else int(text, 0)
        except ValueError:
            pass
        try:
            return float.fromhex(text) if text.lstrip("+-")[:2].lower() == "0x" else float(text)
        except (ValueError, OverflowError):
            raise self.fault(f"bad number syntax: {quote(text)}", token) from None

    def unquote(self, token: _Token) -> str:
        return token.text[1:-1] if token.text[0] == "`" else self.unescape(token, token.text[1:-1])

    def unescape(self, token: _Token, text: str) -> str:
        if "\\" not in text:
            return text
        out = bytearray()
        at = 0
        while at < len(text):
            if text[at] != "\\":
                out += text[at].encode("utf-8", "surrogatepass")
                at += 1
                continue
            mark = text[at + 1 : at + 2]
            size, base = {"x": (2, 16), "u": (4, 16), "U": (8, 16)}.get(mark, (3, 8))
            if mark and mark in _SIMPLE:
                out += _SIMPLE[mark]
                at += 2
                continue
            start = at + 1 if base == 8 else at + 2
            try:
                digits = text[start : start + size]
                if len(digits) != size or not digits.isalnum():
                    raise ValueError(digits)
                code = int(digits, base)
                out += chr(code).encode() if mark in ("u", "U") else bytes((code,))
            except (ValueError, OverflowError):
                raise self.fault(f"invalid syntax in string {token.text}", token) from None
            at = start + size
        return out.decode("utf-8", "replace")


_SIMPLE = {
    "a": b"\a", "b": b"\b", "f": b"\f", "n": b"\n", "r": b"\r", "t": b"\t", "v": b"\v", "\\": b"\\", '"': b'"', "'": b"'",
}  # fmt: skip
