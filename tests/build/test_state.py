"""What settings do to the config, the history and the keys."""

from __future__ import annotations

import pytest

from wherry.build.failures import DockerfileError
from wherry.build.instructions import Expose, StopSignal, read
from wherry.build.parse import parse
from wherry.build.state import State, advance, change, next_key, parse_ports, start


def played(*lines: str, given: dict[str, str | None] | None = None, predefined: dict[str, str] | None = None) -> State:
    state = start(None, key="k", platform=("amd64", "linux", ""), chain=None)
    for line in lines:
        made = change(state, read(parse(line.encode()).lines[0]), given or {}, predefined or {}, "\\")
        state = advance(state, made, next_key(state.trail, made.parts), "2026-01-01T00:00:00Z")
    return state


def test_variables_of_an_instruction_see_what_was_before_it() -> None:
    assert played("ENV a=1", "ENV a=2 b=$a").environment | {"PATH": ""} == {"PATH": "", "a": "2", "b": "1"}


def test_environment_beats_an_argument_of_the_same_name() -> None:
    assert played("ARG X=arg", "ENV X=env", "LABEL l=$X").config.labels == {"l": "env"}


def test_arguments_take_the_given_value_then_their_default_then_the_global_one() -> None:
    state = played("ARG A=1", "ARG B=2", "ARG C", "ARG D", given={"A": "9"}, predefined={"C": "global"})
    assert dict(state.args) == {"A": "9", "B": "2", "C": "global"}
    assert [line.created_by for line in state.history] == ["ARG A=9", "ARG B=2", "ARG C=global", "ARG D"]


def test_ports_ranges_and_faults() -> None:
    expose = read(parse(b"EXPOSE 1").lines[0])
    assert isinstance(expose, Expose)
    assert parse_ports("90-92/UDP", expose) == ["90/udp", "91/udp", "92/udp"]
    assert parse_ports("127.0.0.1:80:8080", expose) == ["8080/tcp"]
    for text, message in (
        ("abc", "invalid containerPort: abc"),
        ("80/foo", 'invalid port: "80/foo": invalid proto: foo'),
        ("70000", "invalid containerPort: 70000"),
        ("92-90", "invalid containerPort: 92-90"),
    ):
        with pytest.raises(DockerfileError) as fault:
            parse_ports(text, expose)
        assert str(fault.value) == message


def test_signals() -> None:
    for signal in ("TERM", "SIGKILL", "9", "RTMIN+3"):
        assert played(f"STOPSIGNAL {signal}").config.stop_signal == signal
    with pytest.raises(DockerfileError, match="invalid signal: FOO"):
        change(played(), StopSignal(line=parse(b"STOPSIGNAL FOO").lines[0], signal="FOO"), {}, {}, "\\")


def test_a_volume_has_a_path() -> None:
    with pytest.raises(DockerfileError, match="VOLUME specified can not be an empty string"):
        played("VOLUME /a $UNSET")


def test_settings_leave_the_key_and_move_the_trail() -> None:
    one, other = played("LABEL a=1"), played("LABEL a=2")
    assert one.key == other.key == "k"
    assert one.trail != other.trail


def test_the_same_state_gives_the_same_bytes() -> None:
    lines = ("ENV a=1", "EXPOSE 90 80", 'CMD ["x"]', "ONBUILD RUN y", "VOLUME /v")
    assert played(*lines).encoded() == played(*lines).encoded()


def test_shell_form_uses_the_shell() -> None:
    assert played('SHELL ["bash", "-c"]', "CMD a b").config.cmd == ["bash", "-c", "a b"]
    assert played("ENTRYPOINT a").config.entrypoint == ["/bin/sh", "-c", "a"]
