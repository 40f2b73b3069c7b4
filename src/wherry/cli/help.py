"""``--help`` texts in the layout of cobra and pflag, from the command table."""

from __future__ import annotations

import os
from collections.abc import Sequence

from wherry.cli.flags import Command, Flag
from wherry.cli.table import ALIASES, COMMANDS, COMMON, GLOBAL_FLAGS, GROUPS, load


def command_help(command: Command, path: str) -> str:
    """The whole help of one command."""
    parts = [f"Usage:  wherry {path}{' ' + command.usage if command.usage else ''}", command.summary]
    spellings = same_command(path)
    if len(spellings) > 1:
        parts.append("Aliases:\n  " + ", ".join(f"wherry {spelling}" for spelling in spellings))
    if any(not flag.hidden for flag in command.flags):
        parts.append("Options:\n" + flag_table(command.flags))
    return "\n\n".join(parts) + "\n"


def same_command(path: str) -> list[str]:
    """All spellings of a command, the longest first."""
    target = COMMANDS[path]
    paths = [other for other, where in COMMANDS.items() if where == target]
    paths += [alias for alias, canonical in ALIASES.items() if canonical in paths]
    return sorted(paths, key=lambda other: (-other.count(" "), other))


def program_help() -> str:
    """What ``wherry --help`` prints."""
    summaries = {path: load(path).summary for path in COMMANDS if " " not in path}
    parts = ["Usage:  wherry [OPTIONS] COMMAND", "A container engine: builds images, runs them as containers, shares them"]
    parts.append("Common Commands:\n" + _listing({name: summaries[name] for name in COMMON if name in summaries}))
    parts.append("Management Commands:\n" + _listing({name: text for name, text in sorted(GROUPS.items()) if " " not in name}))
    parts.append("Commands:\n" + _listing({name: text for name, text in sorted(summaries.items()) if name not in COMMON}))
    parts.append("Global Options:\n" + flag_table(GLOBAL_FLAGS))
    parts.append("Run 'wherry COMMAND --help' for more information on a command.")
    return "\n\n".join(parts) + "\n"


def group_help(group: str) -> str:
    """What ``wherry container`` prints."""
    start = group + " "
    below = {path.removeprefix(start): load(path).summary for path in COMMANDS if path.startswith(start) and " " not in path[len(start) :]}
    parts = [f"Usage:  wherry {group} COMMAND", GROUPS[group], "Commands:\n" + _listing(dict(sorted(below.items())))]
    nested = {path.removeprefix(start): text for path, text in GROUPS.items() if path.startswith(start)}
    if nested:
        parts.insert(2, "Management Commands:\n" + _listing(nested))
    parts.append(f"Run 'wherry {group} COMMAND --help' for more information on a command.")
    return "\n\n".join(parts) + "\n"


def _listing(entries: dict[str, str]) -> str:
    width = max(10, *map(len, entries)) + 1 if entries else 0
    return "\n".join(f"  {name:{width}} {text}" for name, text in entries.items())


def flag_table(flags: Sequence[Flag], columns: int | None = None) -> str:
    """The flags sorted by name, their texts aligned and wrapped."""
    if columns is None:
        columns = _terminal_width()
    shown = sorted((flag for flag in flags if not flag.hidden), key=lambda flag: flag.name)
    rows = [(_left(flag), _right(flag)) for flag in shown]
    margin = max(len(left) for left, _ in rows) + 3
    return "\n".join(f"{left:{margin - 1}} {wrap(margin, columns - 1, right)}".rstrip() for left, right in rows)


def _left(flag: Flag) -> str:
    name = f"  -{flag.shorthand}, --{flag.name}" if flag.shorthand else f"      --{flag.name}"
    return name if flag.kind == "bool" else f"{name} {flag.kind}"


def _right(flag: Flag) -> str:
    if not flag.default:
        return flag.help
    shown = f'"{flag.default}"' if flag.kind == "string" else "true" if flag.default is True else str(flag.default)
    return f"{flag.help} (default {shown})"


def wrap(indent: int, width: int, text: str) -> str:
    """pflag's wrapping: lines after the first are indented, and a last word may stick out by five columns."""
    room = width - indent
    result = ""
    if room < 24:
        indent, room = 16, width - 16
        result = "\n" + " " * indent
    if room < 24:
        return text.replace("\n", result)
    slop = 5
    room -= slop
    pieces = []
    while text:
        piece, text = _wrap_once(room, slop, text)
        pieces.append(piece.replace("\n", "\n" + " " * indent))
    return result + ("\n" + " " * indent).join(pieces)


def _wrap_once(room: int, slop: int, text: str) -> tuple[str, str]:
    if room + slop > len(text):
        return text, ""
    head = text[:room]
    cut = max(head.rfind(" "), head.rfind("\t"), head.rfind("\n"))
    if cut <= 0:
        return text, ""
    line_end = head.rfind("\n")
    if 0 < line_end < cut:
        cut = line_end
    return text[:cut], text[cut + 1 :]


def _terminal_width() -> int:
    try:
        return os.get_terminal_size(0).columns or 80
    except OSError:
        return 80
