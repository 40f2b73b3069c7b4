"""--change against what dockerd answers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.errors import InvalidRequest
from wherry.images.changes import apply_changes, is_signal, merged
from wherry.spec.image import Config, Healthcheck


def test_all_instructions_together_give_the_config_that_docker_gives() -> None:
    changes = [
        "EXPOSE 80 90-92/udp",
        'LABEL a=b "c d"="e f"',
        "ONBUILD RUN x",
        "HEALTHCHECK --interval=5s CMD true",
        "WORKDIR a",
        "WORKDIR b",
        "VOLUME /a /b",
        "CMD x",
        "ENV a=b c=d",
        'ENV c=$a"q r" e=\\$a',
        "STOPSIGNAL TERM",
        "USER al",
        'entrypoint ["y"]',
    ]
    assert apply_changes(Config(), changes) == Config(
        user="al",
        exposed_ports={"80/tcp": {}, "90/udp": {}, "91/udp": {}, "92/udp": {}},
        env=["a=b", "c=bq r", "e=$a"],
        cmd=["/bin/sh", "-c", "x"],
        entrypoint=["y"],
        volumes={"/a": {}, "/b": {}},
        working_dir="/a/b",
        labels={"a": "b", "c d": "e f"},
        stop_signal="TERM",
        healthcheck=Healthcheck(test=["CMD-SHELL", "true"], interval=5_000_000_000),
        on_build=["RUN x"],
    )


def test_ports_are_read_as_leniently_as_docker_reads_them() -> None:
    ports = apply_changes(Config(), ["EXPOSE 8080:80 81-82/UDP 1-2-3 7/ 127.0.0.1:5:6 $unset"]).exposed_ports
    assert ports == {name: {} for name in ("80/tcp", "81/udp", "82/udp", "1/tcp", "2/tcp", "7/tcp", "6/tcp")}


def test_an_empty_command_is_the_shell_alone_and_an_empty_entrypoint_none() -> None:
    assert apply_changes(Config(cmd=["x"]), ["CMD"]).cmd == ["/bin/sh", "-c"]
    assert apply_changes(Config(cmd=["x"]), ["CMD []"]).cmd == []
    assert apply_changes(Config(entrypoint=["x"]), ["ENTRYPOINT"]).entrypoint is None


def test_an_entrypoint_takes_the_inherited_command_away() -> None:
    assert apply_changes(Config(cmd=["sh"]), ['ENTRYPOINT ["y"]']) == Config(entrypoint=["y"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("FROM x", "FROM is not a valid change command"),
        ("bogus x", "BOGUS is not a valid change command"),
        ("", "file with no instructions"),
        ("ENV", "ENV requires at least one argument"),
        ("ENV a", "ENV must have two arguments"),
        ("LABEL a", "LABEL must have two arguments"),
        ("EXPOSE x", "Invalid containerPort: x"),
        ("EXPOSE 65536", "Invalid containerPort: 65536"),
        ("EXPOSE 80-70", "Invalid containerPort: 80-70"),
        ("EXPOSE 80/foo", "Invalid proto: foo"),
        ("EXPOSE /tcp", "No port specified: /tcp<empty>"),
        ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
        ("STOPSIGNAL BOGUS", "invalid signal: BOGUS"),
        ("HEALTHCHECK", "HEALTHCHECK requires at least one argument"),
        ("HEALTHCHECK --bogus CMD x", "unknown flag: --bogus"),
        ("CMD [1]", "when using JSON array syntax, arrays must be comprised of strings only"),
    ],
)
def test_a_bad_change_is_refused_in_the_words_of_docker(change: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        apply_changes(Config(), [change])
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "known"), [("TERM", True), ("SIGTERM", True), ("9", True), ("RTMIN+3", True), ("0", False), ("65", False), ("X", False)]
)
def test_signals_are_told_from_other_words(text: str, known: bool) -> None:
    assert is_signal(text) is known


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["ENV ", "LABEL ", "CMD ", "VOLUME ", "EXPOSE ", "HEALTHCHECK "]), st.text(alphabet="aA=$\"'\\{}[]:- \n#", max_size=30)
)
def test_any_text_is_a_change_or_refused(word: str, rest: str) -> None:
    try:
        apply_changes(Config(), [word + rest])
    except InvalidRequest:
        pass


def test_a_commits_config_is_completed_from_its_containers() -> None:
    base = Config(
        user="7",
        env=["A=1", "B=2"],
        labels={"x": "y", "z": "w"},
        cmd=["hello"],
        entrypoint=["/bin/echo"],
        exposed_ports={"80/tcp": {}},
        healthcheck=Healthcheck(test=["CMD-SHELL", "true"], interval=3),
    )
    asked = Config(env=["B=3", "C=4"], labels={"x": "b"}, cmd=["z"], healthcheck=Healthcheck(test=["NONE"]))
    whole = merged(asked, base)
    assert (whole.user, whole.env, whole.labels) == ("7", ["B=3", "C=4", "A=1"], {"x": "b", "z": "w"})
    assert (whole.cmd, whole.entrypoint, whole.exposed_ports) == (["z"], ["/bin/echo"], {"80/tcp": {}})
    assert whole.healthcheck == Healthcheck(test=["NONE"], interval=3)
    assert merged(Config(entrypoint=["x"]), base).cmd is None
    assert merged(Config(), base).cmd == ["hello"]
