"""Lines, directives, continuations, flags and heredocs; errors as Docker 28.5 words them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.build.failures import DockerfileError
from wherry.build.parse import Document, json_strings, parse, words


def of(text: str) -> Document:
    return parse(text.encode())


def test_continuations_drop_comments_and_blank_lines() -> None:
    document = of("FROM a\nRUN one \\\n# dropped\n\n  two \\  \n  # dropped too\n three\nCMD x\n")
    assert [(line.name, line.rest) for line in document.lines] == [("FROM", "a"), ("RUN", "one   two  three"), ("CMD", "x")]
    assert (document.lines[1].first, document.lines[1].last) == (2, 7)
    assert document.empty_continuations == ((2, 7),)


def test_a_comment_sign_inside_a_line_is_text() -> None:
    assert of("FROM a # b\n").lines[0].rest == "a # b"


def test_leading_blanks_bom_and_crlf_are_accepted() -> None:
    document = parse(b"\xef\xbb\xbf  FROM a\r\n\tRUN x \\\r\n y\r\n")
    assert [line.rest for line in document.lines] == ["a", "x  y"]


def test_the_escape_directive_changes_continuation() -> None:
    document = of("# escape=`\nFROM a\nRUN dir c:\\\nRUN x `\n y\n")
    assert document.escape == "`"
    assert [line.rest for line in document.lines[1:]] == ["dir c:\\", "x  y"]


def test_directives_end_at_the_first_other_line() -> None:
    document = of("# syntax=docker/dockerfile:1\n# check = skip=all\n# hi\n# escape=`\nFROM a\n")
    assert document.directives == {"syntax": "docker/dockerfile:1", "check": "skip=all"}
    assert document.escape == "\\"


def test_flags_are_taken_off_and_end_at_two_dashes() -> None:
    line = of('FROM a\nCOPY --from=x --chown="a b" -- --src /dst\n').lines[1]
    assert (line.flags, line.rest) == (("--from=x", "--chown=a b"), "--src /dst")


def test_heredocs_of_all_kinds() -> None:
    document = of('FROM a\nCOPY <<A <<-"B" /d/\none\nA\n\ttwo $x\n\tB\nRUN 3<<E cat\nthree\nE\n')
    copied, ran = document.lines[1:]
    assert [(one.name, one.body, one.expand) for one in copied.heredocs] == [("A", "one\n", True), ("B", "two $x\n", False)]
    assert [(one.name, one.body, one.fd) for one in ran.heredocs] == [("E", "three\n", 3)]
    assert (copied.first, copied.last) == (2, 6)


def test_shifts_and_quoted_text_are_no_heredocs() -> None:
    document = of('FROM a\nRUN echo $((1<<2)) "<<EOF"\nCMD <<EOF\n')
    assert not any(line.heredocs for line in document.lines)


@pytest.mark.parametrize(
    ("text", "message", "lines"),
    [
        ("\n", "file with no instructions", (1, 1)),
        ("# only comment\n", "file with no instructions", (1, 1)),
        ("FROM a\nRUN <<EOF\nfoo\n", "unterminated heredoc", (2, 3)),
        ("# escape=x\nFROM a\n", "invalid escape token 'x' does not match ` or \\", (1, 1)),
        ("# escape=`\n# escape=\\\nFROM a\n", "only one escape parser directive can be used", (1, 2)),
    ],
)
def test_faults_are_told_as_docker_tells_them(text: str, message: str, lines: tuple[int, int] | None) -> None:
    with pytest.raises(DockerfileError) as fault:
        of(text)
    assert (str(fault.value), fault.value.lines) == (f"failed to parse Dockerfile: {message}", lines)


def test_words_keep_quotes_and_escapes() -> None:
    assert words("a=\"b c\" d='e f' g\\ h  i") == ['a="b c"', "d='e f'", "g\\ h", "i"]


def test_only_an_array_of_strings_is_the_exec_form() -> None:
    assert json_strings('["a", "b"]') == ["a", "b"]
    assert json_strings("['a']") is None
    assert json_strings("[ -f x ]") is None
    for mixed in ("[1]", '["a", null]'):
        with pytest.raises(DockerfileError, match="arrays must be comprised of strings only"):
            json_strings(mixed)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="AFROMRUN \\\n#<>-=`\"'E\t\r[],$", max_size=80))
def test_any_text_parses_or_is_refused_and_lines_go_on_rising(text: str) -> None:
    try:
        document = of(text)
    except DockerfileError:
        return
    last = 0
    for line in document.lines:
        assert last < line.first <= line.last
        last = line.last
