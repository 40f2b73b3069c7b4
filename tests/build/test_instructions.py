"""Each instruction's checks, in the words Docker 28.5 was heard to use."""

from __future__ import annotations

import pytest

from wherry.build.failures import DockerfileError
from wherry.build.instructions import Arg, Copy, Env, From, HealthCheck, OnBuild, Run, duration, read
from wherry.build.parse import parse


def one(text: str) -> object:
    return read(parse(text.encode()).lines[-1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("COPY a", "COPY requires at least two arguments, but only one was provided. Destination could not be determined"),
        ("ADD", "ADD requires at least two arguments, but only one was provided. Destination could not be determined"),
        ("ENV", "ENV requires at least one argument"),
        ("ENV =b", "ENV names can not be blank"),
        ("LABEL", "LABEL requires at least one argument"),
        ("EXPOSE", "EXPOSE requires at least one argument"),
        ("VOLUME", "VOLUME requires at least one argument"),
        ('VOLUME [""]', "VOLUME specified can not be an empty string"),
        ("USER", "USER requires exactly one argument"),
        ("WORKDIR", "WORKDIR requires exactly one argument"),
        ("STOPSIGNAL", "STOPSIGNAL requires exactly one argument"),
        ("SHELL x", "SHELL requires the arguments to be in JSON form"),
        ("SHELL []", "SHELL requires at least one argument"),
        ("HEALTHCHECK", "HEALTHCHECK requires at least one argument"),
        ("HEALTHCHECK FOO", 'Unknown type "FOO" in HEALTHCHECK (try CMD)'),
        ("HEALTHCHECK NONE x", "HEALTHCHECK NONE takes no arguments"),
        ("HEALTHCHECK CMD", "Missing command after HEALTHCHECK CMD"),
        ("HEALTHCHECK --interval=foo CMD x", 'time: invalid duration "foo"'),
        ("HEALTHCHECK --interval=1us CMD x", 'Interval "interval" cannot be less than 1ms'),
        ("HEALTHCHECK --retries=-1 CMD x", "--retries cannot be negative (-1)"),
        ("HEALTHCHECK --retries=x CMD x", 'strconv.ParseInt: parsing "x": invalid syntax'),
        ("ONBUILD", "ONBUILD requires at least one argument"),
        ("ONBUILD ONBUILD RUN x", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
        ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
        ("MAINTAINER", "MAINTAINER requires exactly one argument"),
        ("FROM", "FROM requires either one or three arguments"),
        ("FROM a b", "FROM requires either one or three arguments"),
        ("FROM a AS", "FROM requires either one or three arguments"),
        ("FROM a AS 1x", 'invalid name for build stage: "1x", name can\'t start with a number or contain symbols'),
        ("FROM --bogus=x scratch", "unknown flag: --bogus"),
        ("RUN --network=foo x", 'invalid network mode "foo"'),
        ("RUN --mount type=cache x", "missing a value on flag: --mount"),
        ("RUN --mount=type=bind,from=$X,target=/y x", "'from' doesn't support variable expansion, define alias stage instead"),
        ("COPY --bogus a b", "unknown flag: --bogus"),
        ("COPY --form=x a b", "unknown flag: --form (did you mean from?)"),
        ("COPY --link=x a b", "expecting boolean value for flag --link, not: x"),
        ("COPY --link --link a b", "duplicate flag specified: --link"),
        ("COPY --chown a b", "missing a value on flag: --chown"),
        ("ADD --from=x a b", "unknown flag: --from"),
        ("ARG", "ARG requires at least one argument"),
        ("ARG =x", "ARG names can not be blank"),
        ("COPPY a b", "unknown instruction: COPPY (did you mean COPY?)"),
        ("Rnu x", "unknown instruction: Rnu (did you mean run?)"),
        ("BOGUS x", "unknown instruction: BOGUS"),
        ("// c", "unknown instruction: // (a comment starts with '#', not with '//')"),
    ],
)
def test_faults(text: str, message: str) -> None:
    with pytest.raises(DockerfileError) as fault:
        one(f"FROM x\n{text}\n")
    assert str(fault.value) == f"dockerfile parse error on line 2: {message}"
    assert fault.value.lines == (2, 2)


def test_faults_without_a_line_in_the_message() -> None:
    for text, message in (
        ("ENV a", "ENV must have two arguments"),
        ("CMD [1]", "when using JSON array syntax, arrays must be comprised of strings only"),
        ("ONBUILD RUN [1]", "when using JSON array syntax, arrays must be comprised of strings only"),
        ("HEALTHCHECK CMD [1]", "when using JSON array syntax, arrays must be comprised of strings only"),
        ("ENV a=b c", 'Syntax error - can\'t find = in "c". Must be of the form: name=value'),
    ):
        with pytest.raises(DockerfileError) as fault:
            one(f"FROM x\n{text}\n")
        assert str(fault.value) == f"failed to parse Dockerfile: {message}"


def test_a_run_of_nothing_is_told_of() -> None:
    with pytest.raises(DockerfileError, match=r"^failed to marshal LLB definition: arguments are required$") as fault:
        one("FROM x\nRUN []\n")
    assert fault.value.lines == (2, 2)


def test_forms() -> None:
    assert one("RUN echo a") == Run(line=parse(b"RUN echo a").lines[0], args=("echo a",), shell_form=True)
    exec_form = one('RUN --network=none ["a", "b"]')
    assert isinstance(exec_form, Run)
    assert (exec_form.args, exec_form.shell_form, exec_form.network) == (("a", "b"), False, "none")
    started = one("FROM --platform=linux/amd64 img AS Name")
    assert isinstance(started, From)
    assert (started.image, started.name, started.platform) == ("img", "name", "linux/amd64")
    declared = one('ARG a b=c "d e"')
    assert isinstance(declared, Arg)
    assert declared.pairs == (("a", None), ("b", "c"), ('"d e"', None))
    legacy = one("ENV k rest of line")
    assert isinstance(legacy, Env)
    assert (legacy.pairs, legacy.legacy) == ((("k", "rest of line"),), True)
    copied = one("COPY --from=0 --chmod=755 --exclude=*.md --exclude=x a b /c/")
    assert isinstance(copied, Copy)
    assert (copied.sources, copied.destination, copied.source_stage, copied.excludes) == (("a", "b"), "/c/", "0", ("*.md", "x"))
    health = one("HEALTHCHECK --interval=1m30s --retries=3 CMD curl x")
    assert isinstance(health, HealthCheck)
    assert (health.test, health.interval, health.retries) == (("CMD-SHELL", "curl x"), 90 * 10**9, 3)
    trigger = one("onbuild  RUN echo hi")
    assert isinstance(trigger, OnBuild)
    assert trigger.trigger == "RUN echo hi"


def test_durations_are_gos() -> None:
    assert duration("1h2m3.5s") == 3723_500_000_000
