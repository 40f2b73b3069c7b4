"""BuildKit's checks by name; messages as Docker 28.5 prints them."""

from __future__ import annotations

import pytest

from wherry.build.checks import check
from wherry.build.failures import DockerfileError
from wherry.build.instructions import read
from wherry.build.parse import parse


def remarks(text: str) -> list[str]:
    document = parse(text.encode())
    return [str(remark) for remark in check(document, [read(line, document.escape) for line in document.lines])]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('FROM a\nCMD ["x"]\n', []),
        (
            "FROM a\nCMD x\n",
            ["JSONArgsRecommended: JSON arguments recommended for CMD to prevent unintended behavior related to OS signals (line 2)"],
        ),
        ("FROM a\nMAINTAINER x\n", ["MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label (line 2)"]),
        ("FROM a AS scratch\n", ['ReservedStageName: Stage name should not use the same name as reserved stage "scratch" (line 1)']),
        ("FROM a AS a\nFROM a AS a\n", ['DuplicateStageName: Duplicate stage name "a", stage names should be unique (line 2)']),
        ("FROM a AS Foo\n", ["StageNameCasing: Stage name 'Foo' should be lowercase (line 1)"]),
        ("FROM a as b\n", ["FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 1)"]),
        (
            "FROM a\nrun x\n",
            ["ConsistentInstructionCasing: Command 'run' should match the case of the command majority (uppercase) (line 2)"],
        ),
        (
            "FROM a\nWORKDIR w\n",
            ['WorkdirRelativePath: Relative workdir "w" can have unexpected results if the base image changes (line 2)'],
        ),
        ("FROM a\nWORKDIR /w\nWORKDIR x\n", []),
        ("FROM a\nENV k v\n", ['LegacyKeyValueFormat: "ENV key=value" should be used instead of legacy "ENV key value" format (line 2)']),
        (
            "FROM a\nARG DB_PASSWORD\n",
            ['SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ARG "DB_PASSWORD") (line 2)'],
        ),
        ("FROM a\nENV PUBLIC_KEY=1 TOKEN_FILE=2 MONKEY=3\n", []),
        ("FROM a\nEXPOSE 80/TCP\n", ["ExposeProtoCasing: Defined protocol '80/TCP' in EXPOSE instruction should be lowercase (line 2)"]),
        ("FROM a\nRUN a \\\n\n b\n", ["NoEmptyContinuation: Empty continuation line (line 4)"]),
        ("# check=skip=MaintainerDeprecated\nFROM a\nMAINTAINER x\n", []),
        ("# check=skip=all;error=true\nFROM a\nMAINTAINER x\n", []),
    ],
)
def test_rules(text: str, expected: list[str]) -> None:
    assert remarks(text) == expected


def test_all_but_the_last_command_of_a_stage_are_remarked() -> None:
    found = remarks('FROM a\nCMD ["x"]\nCMD ["y"]\nCMD ["y"]\nFROM b\nCMD ["z"]\n')
    words = "Multiple CMD instructions should not be used in the same stage because only the last one will be used"
    assert found == [f"MultipleInstructionsDisallowed: {words} (line {line})" for line in (2, 3)]


@pytest.mark.parametrize(
    ("directive", "message"),
    [
        ("bogus", 'invalid check option "bogus"'),
        ("skip=all;foo=bar", 'invalid check option "foo"'),
        ("error=maybe", 'failed to parse check option "error=maybe": strconv.ParseBool: parsing "maybe": invalid syntax'),
    ],
)
def test_wrong_options(directive: str, message: str) -> None:
    with pytest.raises(DockerfileError) as fault:
        remarks(f"# check={directive}\nFROM a\n")
    assert str(fault.value) == f"failed to parse check options: {message}"
