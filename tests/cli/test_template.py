"""Templates: the cases were answered by Docker's own client."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.cli.template import Template, TemplateError
from wherry.cli.template_values import Record

IMAGE = {
    "Id": "sha256:5a6", "Os": "linux", "Size": 7, "Config": {"Cmd": ["sh"], "Env": ["A=b", "C=d"], "Labels": {"x": "y", "z": "w"}},
    "RootFS": {"Layers": ["sha256:0a", "sha256:0b"]},
}  # fmt: skip

RENDERED = [
    ("{{.RootFS.Layers}}", "[sha256:0a sha256:0b]"),
    ("{{json .Config.Labels}}", '{"x":"y","z":"w"}'),
    ("{{.Config.Labels}} {{.Config.Labels.nope}}", "map[x:y z:w] <no value>"),
    ('{{index .Config.Labels "x"}}{{index .Config.Labels "nope"}}|', "y|"),
    ("{{range $i, $e := .Config.Env}}{{$i}}={{$e}} {{end}}", "0=A=b 1=C=d "),
    ("{{range $k, $v := .Config.Labels}}{{$k}}:{{$v}};{{end}}", "x:y;z:w;"),
    ("{{range .Config.Env}}{{.}}{{break}}{{end}}", "A=b"),
    ("{{range .Config.Nope}}x{{else}}none{{end}}", "none"),
    ('{{if eq .Os "linux"}}L{{else if eq .Os "windows"}}W{{else}}?{{end}}', "L"),
    ("{{with .Config}}{{.Cmd}}{{else}}no{{end}}", "[sh]"),
    ("a {{- /* c */ -}} x {{- 3 -}} y", "ax3y"),
    ('{{define "t"}}[{{.}}]{{end}}{{template "t" .Os}}{{block "b" 5}}<{{.}}>{{end}}', "[linux]<5>"),
    ("{{$a := 1}}{{if true}}{{$a = 2}}{{end}}{{$a}}", "2"),
    ("{{range 3}}{{.}},{{end}}", "0,1,2,"),
    (
        '{{upper "abc"}} {{title "hello world"}} {{pad "x" 2 3}}| {{truncate "abcdef" 3}} {{join .Config.Cmd "-"}}',
        "ABC Hello World   x   | abc sh",
    ),
    ('{{split "a,b,c" ","}} {{len .RootFS.Layers}} {{slice .Id 7 10}}', "[a b c] 2 5a6"),
    ('{{eq 1 1}} {{eq "a" "b" "a"}} {{ne 1 2}} {{lt 1 2}} {{and 1 0}} {{or 0 "x"}} {{not true}}', "true true true true 0 x false"),
    (
        '{{html "<a&\'\\">"}} {{js "it\'s <b>"}} {{urlquery "a b/c?d=é"}}',
        "&lt;a&amp;&#39;&#34;&gt; it\\'s \\u003Cb\\u003E a+b%2Fc%3Fd%3D%C3%A9",
    ),
    ('{{print 1 2 "a" 3 "b" "c"}} {{println "x" 1}}', "1 2a3b c x 1\n".replace("b c", "bc")),
    ('{{.Os | printf "%s-%s" "a"}} {{(index .RootFS.Layers 0) | printf "%.3s"}}', "a-linux sha"),
    ("{{\"a\"}}{{`raw\\n`}}{{'x'}}{{0x10}}{{1_000}}{{010}}{{1.5e3}}", "araw\\n12016100081500"),
]

REFUSED = [
    ("{{", "template: :1: unclosed action"),
    ("{{.Id", "template: :1: unclosed action"),
    ("{{end}}", "template: :1: unexpected {{end}}"),
    ("{{if .Id}}", "template: :1: unexpected EOF"),
    ("{{foo}}", 'template: :1: function "foo" not defined'),
    ("{{$x}}", 'template: :1: undefined variable "$x"'),
    ("{{if}}x{{end}}", "template: :1: missing value for if"),
    ("{{.Os.}}", "template: :1: unexpected <.> in operand"),
    ("{{.Id}}{{`a`}", 'template: :1: unexpected "}" in operand'),
    ('{{"abc}}', "template: :1: unterminated quoted string"),
    ("{{1 | 2}}", "template: :1: non executable command in pipeline stage 2"),
    ('{{eq 1 "a"}}', 'template: :1:2: executing "" at <eq 1 "a">: error calling eq: incompatible types for comparison: int and string'),
    ("{{index .RootFS.Layers 5}}", 'template: :1:2: executing "" at <index .RootFS.Layers 5>: error calling index: index out of range: 5'),
    ("{{upper 5}}", 'template: :1:8: executing "" at <5>: expected string; found 5'),
    ('{{template "zz"}}', 'template: :1:11: executing "" at <{{template "zz"}}>: template "zz" not defined'),
    ("{{range .Os}}{{end}}", 'template: :1:8: executing "" at <.Os>: range can\'t iterate over linux'),
]


@pytest.mark.parametrize(("layout", "text"), RENDERED)
def test_template_renders_as_docker_does(layout: str, text: str) -> None:
    assert Template(layout).render(IMAGE) == text


@pytest.mark.parametrize(("layout", "message"), REFUSED)
def test_fault_is_told_in_the_words_of_go(layout: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        Template(layout).render(IMAGE)
    assert str(caught.value) == message


def test_unknown_field_of_a_struct_names_its_type() -> None:
    row = Record({"ID": "1"}, "*formatter.ContainerContext")
    with pytest.raises(TemplateError, match=r"executing \"\" at <.Bogus>: can't evaluate field Bogus in type \*formatter.ContainerContext"):
        Template("{{.Bogus}}").render(row)


def test_method_of_a_struct_takes_arguments() -> None:
    row = Record({"ID": "1"}, "*T", methods={"Label": lambda name: f"<{name}>"})
    assert Template('{{.Label "a"}}').render(row) == "<a>"


@pytest.mark.parametrize("layout", ["{{.__class__}}", "{{.Os.__len__}}", "{{.Config.__init__}}"])
def test_attributes_of_python_objects_are_out_of_reach(layout: str) -> None:
    with pytest.raises(TemplateError):
        Template(layout).render(Record(IMAGE, "*T"), strict=True)


@pytest.mark.parametrize(
    "layout",
    [
        "{{range 100000}}{{range 100000}}{{end}}{{end}}",
        '{{define "a"}}{{template "a"}}{{end}}{{template "a"}}',
        "{{range 100000}}{{pad `x` 100000 1}}{{end}}",
        "{{" + "(" * 5000 + "1" + ")" * 5000 + "}}",
        "{{if 1}}" * 5000 + "{{end}}" * 5000,
        "{{if 1}}" + "{{else if 1}}" * 5000 + "{{end}}",
    ],
)
def test_a_greedy_template_is_stopped(layout: str) -> None:
    with pytest.raises(TemplateError):
        Template(layout).render(IMAGE)


def outcome(layout: str) -> bool:
    """Whether it rendered, or was refused in the way of a template."""
    try:
        Template(layout).render(IMAGE)
    except TemplateError as error:
        return str(error).startswith("template: ")
    return True


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="{}. $|()\"`'-/*:=,aAxif_range1end0else\\n\n", max_size=40))
def test_any_text_renders_or_is_refused(text: str) -> None:
    assert outcome(text)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.sampled_from(["{{.Os}}", "{{if .Os}}", "{{else}}", "{{end}}", "{{range .Config.Env}}", "{{.}}", "{{printf `%v` .}}", "x\n"]),
        max_size=9,
    )
)
def test_any_order_of_actions_renders_or_is_refused(parts: list[str]) -> None:
    assert outcome("".join(parts))
