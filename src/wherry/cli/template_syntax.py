"""The grammar of Go's text/template: text in, a tree of nodes out.  Nothing is evaluated here.  Source: Go text/template/parse."""

from __future__ import annotations

from wherry.cli.template_nodes import (
    Action,
    Branch,
    Chain,
    Command,
    Dot,
    Field,
    Identifier,
    Include,
    Jump,
    Literal,
    Nil,
    Node,
    Pipe,
    Text,
    Tree,
    Variable,
)
from wherry.cli.template_tokens import SyntaxFault, Token, fault, number_of, quote, string_of, tokenize

MAX_DEPTH = 100


def parse(text: str, functions: frozenset[str]) -> Tree:
    """Parse ``text``, where ``functions`` may be called.  Raises SyntaxFault."""
    parser = _Parser(text, tokenize(text), functions)
    return Tree(text, parser.whole(), parser.defined)


class _Parser:
    def __init__(self, text: str, tokens: list[Token], functions: frozenset[str]) -> None:
        self.text = text
        self.tokens = tokens
        self.at = 0
        self.functions = functions
        self.defined: dict[str, list[Node]] = {}
        self.variables = ["$"]
        self.depth = 0
        self.loops = 0

    # --- tokens
    def next(self) -> Token:
        token = self.tokens[self.at]
        if token.kind == "fault":
            raise SyntaxFault(token.text)
        if token.kind != "eof":
            self.at += 1
        return token

    def peek(self) -> Token:
        return self.tokens[self.at]

    def skip_space(self) -> Token:
        while self.tokens[self.at].kind == "space":
            self.at += 1
        return self.tokens[self.at]

    def next_word(self) -> Token:
        self.skip_space()
        return self.next()

    def fault(self, message: str, token: Token | None = None) -> SyntaxFault:
        return fault(self.text, (token or self.peek()).pos, message)

    def unexpected(self, token: Token, where: str) -> SyntaxFault:
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

    def branch(self, word: Token) -> Branch:
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
        return string_of(self.text, token)

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

    def block(self, word: Token) -> Include:
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

    def check_pipeline(self, pipe: Pipe, where: str, token: Token) -> None:
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
            return Literal(token.pos, number_of(self.text, token), token.text)
        if kind == "string":
            return Literal(token.pos, string_of(self.text, token), token.text)
        if kind == "(":
            self.depth += 1
            if self.depth > MAX_DEPTH:
                raise self.fault("too many levels of nesting", token)
            pipe = self.pipeline("parenthesized pipeline", ")")
            self.depth -= 1
            return pipe
        self.at -= kind != "eof"
        return None

    def known(self, name: str, token: Token) -> None:
        if name not in self.variables:
            raise self.fault(f"undefined variable {quote(name)}", token)
