"""The parser of command lines, against pflag's semantics and Docker's texts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.cli import flags
from wherry.cli.flags import Command, Failure, Flag, HelpWanted, Invocation, UsageFailure
from wherry.cli.program import Program

FLAGS = (
    Flag("all", "bool", short="a"),
    Flag("interactive", "bool", short="i"),
    Flag("tty", "bool", short="t"),
    Flag("publish", "list", short="p"),
    Flag("memory", "bytes", short="m"),
    Flag("last", "int", short="n", default=-1),
    Flag("name", "string"),
    Flag("net", "list", alias_of="network"),
    Flag("network", "list"),
    Flag("gone", "string", refused="it is gone"),
)
PROGRAM = Program({}, set())


def take(*words: str, interspersed: bool = True, minimum: int = 0, maximum: int = flags.MANY) -> Invocation:
    command = Command("", "", lambda invocation: 0, flags=FLAGS, minimum=minimum, maximum=maximum, interspersed=interspersed)
    return flags.parse(command, "x", PROGRAM, words)


@pytest.mark.parametrize(
    ("words", "name", "expected"),
    [
        (["-it"], "tty", True),
        (["-ita=false"], "all", False),
        (["--all=0"], "all", False),
        (["-p3000:80"], "publish", ("3000:80",)),
        (["-p", "1", "--publish=2", "--publish", "3"], "publish", ("1", "2", "3")),
        (["-tp=5"], "publish", ("5",)),
        (["-m64m"], "memory", 64 << 20),
        (["-n", "-3"], "last", -3),
        (["--name="], "name", ""),
        (["--net", "a"], "network", ("a",)),
        (["--last", "0x10"], "last", 16),
    ],
)
def test_each_spelling_of_a_flag_gives_its_value(words: list[str], name: str, expected: object) -> None:
    assert take(*words).values[name] == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nope"], "unknown flag: --nope"),
        (["-x"], "unknown shorthand flag: 'x' in -x"),
        (["-tzx"], "unknown shorthand flag: 'z' in -zx"),
        (["-p"], "flag needs an argument: 'p' in -p"),
        (["--name"], "flag needs an argument: --name"),
        (["--=x"], "bad flag syntax: --=x"),
        (["-m", "bad"], 'invalid argument "bad" for "-m, --memory" flag: invalid size: \'bad\''),
        (["-m", "1x"], 'invalid argument "1x" for "-m, --memory" flag: invalid suffix: \'x\''),
        (["-m", "1.5.5g"], 'invalid argument "1.5.5g" for "-m, --memory" flag: strconv.ParseFloat: parsing "1.5.5": invalid syntax'),
        (["--all=x"], 'invalid argument "x" for "-a, --all" flag: strconv.ParseBool: parsing "x": invalid syntax'),
        (["-n", "x"], 'invalid argument "x" for "-n, --last" flag: strconv.ParseInt: parsing "x": invalid syntax'),
    ],
)
def test_wrong_flags_are_told_in_dockers_words(words: list[str], message: str) -> None:
    with pytest.raises(UsageFailure) as caught:
        take(*words)
    assert str(caught.value) == message
    assert caught.value.status == 125


def test_flags_after_an_argument_belong_to_it_without_interspersion() -> None:
    found = take("-t", "image", "-i", "--nope", interspersed=False)
    assert found.arguments == ["image", "-i", "--nope"]
    assert not found.flag("interactive")


def test_flags_after_an_argument_count_with_interspersion_until_two_dashes() -> None:
    found = take("image", "-i", "--", "-t")
    assert found.arguments == ["image", "-t"]
    assert found.flag("interactive")
    assert not found.flag("tty")


def test_a_refused_flag_is_named() -> None:
    with pytest.raises(Failure, match="wherry: --gone is not supported: it is gone"):
        take("--gone", "x")


def test_help_is_wanted_by_both_spellings() -> None:
    for word in ("--help", "-h"):
        with pytest.raises(HelpWanted):
            take(word)


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (1, flags.MANY, "requires at least 1 argument"),
        (2, 2, "requires 2 arguments"),
        (1, 2, "requires at least 1 and at most 2 arguments"),
    ],
)
def test_too_few_arguments_are_told(low: int, high: int, message: str) -> None:
    with pytest.raises(UsageFailure, match=f"'wherry x' {message}"):
        take(minimum=low, maximum=high)


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [("0", 0), ("1h30m", 5400 * 10**9), ("-1.5s", -1_500_000_000), ("2ms", 2_000_000), ("1us", 1000), (".5m", 30 * 10**9)],
)
def test_durations_are_read_as_go_reads_them(text: str, nanoseconds: int) -> None:
    assert flags.parse_duration(text) == nanoseconds


@pytest.mark.parametrize(
    ("text", "message"),
    [("x", 'time: invalid duration "x"'), ("", 'time: invalid duration ""'), ("3", 'time: missing unit in duration "3"')],
)
def test_bad_durations_are_told_as_go_tells_them(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        flags.parse_duration(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(("text", "count"), [("64m", 64 << 20), ("1.5GiB", 3 << 29), ("10", 10), ("2kb", 2048), ("7b", 7)])
def test_sizes_have_binary_units(text: str, count: int) -> None:
    assert flags.parse_bytes(text) == count


@pytest.mark.parametrize(
    ("text", "billionths"),
    [("1.5", 1_500_000_000), ("3/2", 1_500_000_000), ("15e-1", 1_500_000_000), (".5", 500_000_000), ("+1.", 10**9), ("-1", -(10**9))],
)
def test_cpus_become_billionths(text: str, billionths: int) -> None:
    assert flags.parse_cpus(text) == billionths


@pytest.mark.parametrize("text", ["x", "", "1/0", "1/2.5", "1e", "1e99999", "e1", ".", "1_0", "\u00b2"])
def test_what_is_no_number_of_cpus_is_told_in_dockers_words(text: str) -> None:
    with pytest.raises(ValueError, match=f"failed to parse {text} as a rational number"):
        flags.parse_cpus(text)


def test_cpus_have_nine_decimals() -> None:
    assert flags.parse_cpus("0.0000000010") == 1
    for text in ("1/3", "0.0000000001", "1e-10"):
        with pytest.raises(ValueError, match="value is too precise"):
            flags.parse_cpus(text)


@settings(max_examples=100)
@given(st.lists(st.text(max_size=6), max_size=6))
def test_any_words_parse_or_are_refused(words: list[str]) -> None:
    try:
        found = take(*words)
    except (Failure, HelpWanted):
        return
    assert all(argument in words for argument in found.arguments)


@settings(max_examples=100)
@given(st.text(max_size=12))
def test_any_text_is_a_value_or_a_value_error(text: str) -> None:
    for read in (flags.parse_bytes, flags.parse_duration, flags.parse_cpus, flags.parse_int, flags.parse_bool):
        try:
            read(text)
        except ValueError:
            continue
