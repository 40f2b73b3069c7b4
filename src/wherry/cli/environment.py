"""``-e``, ``--env-file``, ``-l``, ``--label-file``, and the proxies of config.json."""

from __future__ import annotations

import os

from wherry.cli.flags import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from wherry.cli.program import Program


def variable(word: str) -> str:
    """One ``-e``: ``KEY=VALUE``; ``KEY`` takes the value it has here, and stays bare (unset there) where it has none."""
    name, equals, _ = word.partition("=")
    if not name:
        raise ValueError(f"invalid environment variable: {word}")
    if equals or name not in os.environ:
        return word
    return f"{name}={os.environ[name]}"


def label(word: str) -> str:
    name = word.partition("=")[0].lstrip(" \t")
    if not name:
        raise ValueError(f"invalid label '{word}': empty name")
    if " " in name or "\t" in name:
        raise ValueError(f"label '{name}' contains whitespaces")
    return word


def variables(files: Iterable[str], words: Iterable[str]) -> list[str]:
    """All of the files, then the words, of which the last for a name counts.  Raises Failure."""
    found = [line for path in files for line in read_pairs(path, inherit=True)]
    return [*found, *{word.partition("=")[0]: word for word in words}.values()]


def labels(files: Iterable[str], words: Iterable[str]) -> dict[str, str]:
    found = [line for path in files for line in read_pairs(path, inherit=False)]
    return pairs([*found, *words])


def pairs(words: Iterable[str]) -> dict[str, str]:
    """``k=v`` words as a map; ``k`` alone is empty."""
    made = {}
    for word in words:
        key, _, value = word.partition("=")
        made[key] = value
    return made


def read_pairs(path: str, *, inherit: bool) -> list[str]:
    """The lines of an env or label file, each of which Docker's words call an env file: no quotes, no inline comments.

    A bare name is taken from here if ``inherit``, else dropped.
    """
    try:
        with open(path, "rb") as file:
            content = file.read()
    except IsADirectoryError:
        raise Failure(f"invalid env file ({path}): read {path}: is a directory", 125) from None
    except OSError as error:
        raise Failure(f"open {path}: {(error.strerror or '').lower()}", 125) from None
    found = []
    for number, raw in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            line = raw.removesuffix(b"\r").decode().lstrip()
        except UnicodeDecodeError:
            shown = " ".join(str(byte) for byte in raw)
            raise Failure(f"invalid env file ({path}): invalid utf8 bytes at line {number}: [{shown}]", 125) from None
        if not line or line.startswith("#"):
            continue
        name, equals, _ = line.partition("=")
        if any(character.isspace() for character in name):
            raise Failure(f"invalid env file ({path}): variable '{name}' contains whitespaces", 125)
        if not name:
            raise Failure(f"invalid env file ({path}): no variable name on line '{line}'", 125)
        if equals:
            found.append(line)
        elif inherit and name in os.environ:  # a bare label is dropped, as Docker drops it
            found.append(f"{name}={os.environ[name]}")
    return found


def with_proxies(words: list[str], program: Program) -> list[str]:
    """``words``, and the proxies that config.json gives containers of this daemon, where ``words`` do not set them."""
    settings = program.config()
    if not settings.get("proxies"):
        return words
    from wherry.cli.config import Config

    names = {word.partition("=")[0] for word in words}
    found = Config(program.config_dir, settings).proxies(program.address)
    return [*words, *(f"{name}={value}" for name, value in found.items() if name not in names)]
