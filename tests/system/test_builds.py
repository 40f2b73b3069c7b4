"""Builds through the command line: every instruction, the cache's rules, the ignore file, clear failures."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import Daemon, Result

pytestmark = pytest.mark.root


class Project:
    """A folder with a Dockerfile, and the tag that its builds get."""

    def __init__(self, engine: Daemon, folder: Path, tag: str) -> None:
        self.engine, self.folder, self.tag = engine, folder, tag

    def write(self, **files: str) -> Project:
        for name, text in files.items():
            path = self.folder / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return self

    def build(self, *options: str, check: bool = True) -> Result:
        return self.engine.run("build", "-t", self.tag, *options, str(self.folder), check=check)

    def ident(self, *options: str) -> str:
        return self.engine.out("build", "-q", "-t", self.tag, *options, str(self.folder))

    def run(self, *arguments: str) -> str:
        return self.engine.out("run", "--rm", self.tag, *arguments)

    def config(self, field: str) -> object:
        return json.loads(self.engine.out("image", "inspect", self.tag, "-f", f"{{{{json .Config.{field}}}}}"))


@pytest.fixture
def project(engine: Daemon, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Project]:
    yield Project(engine, tmp_path, request.node.name.split("[")[0].removeprefix("test_")[:60] + ":1")
    engine.run("rmi", "-f", request.node.name.split("[")[0].removeprefix("test_")[:60] + ":1", check=False)


def test_every_instruction_shows_in_the_image(project: Project) -> None:
    project.write(
        Dockerfile="""\
# a comment
ARG BASE=bb
FROM $BASE
ARG VERSION=1
LABEL maintainer="me" version=$VERSION
ENV GREETING=hello TWICE="$VERSION$VERSION"
WORKDIR /app
WORKDIR deep
COPY a.txt b.txt ./
ADD --chown=al:extra --chmod=640 a.txt /owned
RUN echo "$GREETING $TWICE" > told
RUN ["sh", "-c", "echo exec form > exec"]
VOLUME /data
EXPOSE 80 53/udp
USER al
STOPSIGNAL SIGINT
HEALTHCHECK --interval=5m --retries=2 CMD true
SHELL ["/bin/sh", "-ec"]
ENTRYPOINT ["cat"]
CMD ["told"]
""",
        **{"a.txt": "a", "b.txt": "b"},
    )
    project.build("--build-arg", "VERSION=7")
    assert project.run() == "hello 77"
    assert project.run("exec", "a.txt", "b.txt") == "exec form\nab"
    assert project.engine.out("run", "--rm", "--entrypoint", "stat", project.tag, "-c", "%U:%G %a", "/owned") == "al:extra 640"
    assert project.config("WorkingDir") == "/app/deep"
    assert project.config("Labels") == {"maintainer": "me", "version": "7"}
    assert project.config("ExposedPorts") == {"53/udp": {}, "80/tcp": {}}
    assert project.config("Volumes") == {"/data": {}}
    assert (project.config("User"), project.config("StopSignal")) == ("al", "SIGINT")
    assert project.config("Healthcheck") == {"Test": ["CMD-SHELL", "true"], "Interval": 300_000_000_000, "Retries": 2}
    assert "TWICE=77" in str(project.config("Env"))


def test_entrypoint_and_cmd_join_in_their_forms(project: Project) -> None:
    project.write(Dockerfile='FROM bb\nENTRYPOINT ["echo", "apachectl"]\nCMD ["-D", "FOREGROUND"]\n').build()
    assert project.run() == "apachectl -D FOREGROUND"
    assert project.run("-v") == "apachectl -v"
    project.write(Dockerfile="FROM bb\nENV WORD=x\nENTRYPOINT echo shell $WORD\nCMD -D FOREGROUND\n").build()
    assert project.run() == "shell x"
    project.write(Dockerfile="FROM bb\nENV WORD=x\nCMD echo $WORD\n").build()
    assert project.run() == "x"


def test_stages_give_what_is_copied_from_them_and_target_stops_early(project: Project) -> None:
    project.write(
        Dockerfile="FROM bb AS tool\nRUN echo made > /made\n"
        "FROM bb AS unused\nRUN exit 1\nFROM bb\nCOPY --from=tool /made /got\nCMD cat /got\n"
    )
    project.build()
    assert project.run() == "made"
    project.build("--target", "tool")
    assert project.run("cat", "/made") == "made"


def test_scratch_holds_nothing_but_what_is_put_there(project: Project) -> None:
    project.write(Dockerfile='FROM bb AS all\nFROM scratch\nCOPY --from=all /bin/busybox /busybox\nENTRYPOINT ["/busybox"]\n').build()
    assert project.run("ls", "/") == "busybox\ndev\netc\nproc\nsys"


def test_add_unpacks_archives_and_copy_does_not(project: Project) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        info = tarfile.TarInfo("inside/file")
        info.size = 4
        tar.addfile(info, io.BytesIO(b"text"))
    (project.folder / "x.tar.gz").write_bytes(buffer.getvalue())
    project.write(Dockerfile="FROM bb\nADD x.tar.gz /added/\nCOPY x.tar.gz /copied/\n").build()
    assert project.run("sh", "-c", "cat /added/inside/file; ls /copied") == "textx.tar.gz"


def test_onbuild_runs_in_the_image_built_on_top(project: Project) -> None:
    project.write(Dockerfile="FROM bb\nONBUILD COPY word /word\nONBUILD RUN cat /word > /heard\n")
    project.engine.run("build", "-q", "-t", "onbuild-base", str(project.folder))
    project.write(Dockerfile="FROM onbuild-base\nCMD cat /heard\n", word="triggered").build()
    assert project.run() == "triggered"
    project.engine.run("rmi", "-f", project.tag, "onbuild-base")


def test_the_same_input_gives_the_same_image_id(project: Project) -> None:
    project.write(Dockerfile="FROM bb\nCOPY file /\nRUN cat /file > /copy\n", file="same")
    first = project.ident()
    assert project.ident() == first
    os.utime(project.folder / "file", (1, 1))
    assert project.ident() == first


def test_content_not_time_decides_and_a_change_makes_all_after_it_new(project: Project) -> None:
    dockerfile = (
        "FROM bb\nWORKDIR /app\nCOPY package.json /app\nRUN cat /proc/sys/kernel/random/uuid > installed\nCOPY . /app\nCMD cat installed\n"
    )
    project.write(Dockerfile=dockerfile, **{"package.json": "{}", "server.js": "1"})
    project.build()
    installed = project.run()
    project.write(**{"server.js": "2"})
    output = project.build().out
    assert output.count("Using cache") == 3
    assert (project.run(), project.run("cat", "server.js")) == (installed, "2")
    project.write(**{"package.json": '{"new": 1}'})
    assert project.build().out.count("Using cache") == 1
    assert project.run() != installed


def test_no_cache_runs_every_step_again(project: Project) -> None:
    project.write(Dockerfile="FROM bb\nRUN cat /proc/sys/kernel/random/uuid > /id\nCMD cat /id\n").build()
    first = project.run()
    assert "Using cache" not in project.build("--no-cache").out
    assert project.run() != first


def test_build_args_are_part_of_the_cache_from_where_they_are_used(project: Project) -> None:
    project.write(Dockerfile="FROM bb\nRUN echo before > /before\nARG WORD=none\nRUN echo $WORD > /word\nCMD cat /word\n").build()
    assert project.run() == "none"
    assert project.build("--build-arg", "WORD=some").out.count("Using cache") >= 1
    assert project.run() == "some"
    assert "[Warning] One or more build-args [UNKNOWN] were not consumed" in project.build("--build-arg", "UNKNOWN=1").out


def test_the_ignore_file_keeps_files_out_of_the_context(project: Project) -> None:
    project.write(
        Dockerfile="FROM bb\nCOPY . /app\nCMD find /app -type f | sort\n",
        node_modules__big="x",
        logs__a="1",
        logs__keep="2",
        secret="s",
        page="p",
        **{".dockerignore": "# comment\nnode_modules\nlogs/*\n!logs/keep\nsecret\nDockerfile\n.dockerignore\n"},
    )
    project.build()
    assert project.run().split() == ["/app/logs/keep", "/app/page"]


def test_a_dockerfile_of_another_name_and_from_standard_input(project: Project) -> None:
    project.write(**{"Other.docker": "FROM bb\nCMD echo other\n"}).build("-f", f"{project.folder}/Other.docker")
    assert project.run() == "other"
    project.engine.run("build", "-t", project.tag, "-", stdin=b"FROM bb\nCMD echo piped\n")
    assert project.run() == "piped"


def test_a_failing_step_names_itself_and_its_code_and_leaves_no_image(project: Project) -> None:
    failed = project.write(Dockerfile="FROM bb\nRUN echo about to fail && exit 42\n").build(check=False)
    assert failed.code != 0
    assert "about to fail" in failed.out
    assert "The command '/bin/sh -c echo about to fail && exit 42' returned a non-zero code: 42" in failed.err
    assert project.engine.out("images", "-q", project.tag) == ""


@pytest.mark.parametrize(
    ("dockerfile", "message"),
    [
        ("", "the Dockerfile (Dockerfile) cannot be empty"),
        ("RUN true\n", "no build stage in current context"),
        ("FROM bb\nRUM true\n", "dockerfile parse error on line 2: unknown instruction: RUM (did you mean RUN?)"),
        ("// a note\nFROM bb\n", "unknown instruction: // (a comment starts with '#', not with '//')"),
        ("FROM bb\nCOPY missing /x\n", "missing"),
        ("FROM bb\nCOPY ../x /x\n", "x"),
        ("FROM bb\nUSER nosuchuser\nRUN true\n", "unable to find user nosuchuser: no matching entries in passwd file"),
        ('FROM bb\nRUN ["/nope"]\n', 'exec: "/nope": stat /nope: no such file or directory'),
    ],
)
def test_broken_dockerfiles_are_told_clearly(project: Project, dockerfile: str, message: str) -> None:
    failed = project.write(Dockerfile=dockerfile).build(check=False)
    assert failed.code == 1
    assert message.lower() in failed.err.lower()
    assert failed.err.count("failed to create task for container") <= 1


def test_quiet_prints_the_id_alone_and_plain_progress_the_steps(project: Project) -> None:
    project.write(Dockerfile="FROM bb\nRUN echo visible\n")
    assert project.ident().startswith("sha256:")
    quiet = project.write(Dockerfile="FROM bb\nRUN echo before; exit 4\n").build("-q", check=False)
    assert (quiet.code, quiet.out) == (4, "")
    assert re.search(r"Running in [0-9a-f]{12}\nbefore\nThe command '.*' returned a non-zero code: 4\n$", quiet.err)
    project.write(Dockerfile="FROM bb\nRUN echo visible\n")
    shown = project.build("--progress", "plain", "--no-cache").out
    assert re.search(r"#2 \[2/2\] RUN echo visible\n#2 why: the cache was not to be used \(--no-cache\)\n#2 \d+\.\d+ visible\n", shown)
    assert shown.startswith("#1 [1/2] FROM bb\n#1 DONE 0.0s\n")
    failed = project.write(Dockerfile="FROM bb\nRUN exit 3\n").build("--progress", "plain", check=False)
    assert (failed.code, failed.err) == (
        3,
        "Dockerfile:2\n--------------------\n   1 |     FROM bb\n   2 | >>> RUN exit 3\n   3 |     \n--------------------\n"
        'ERROR: failed to build: failed to solve: process "/bin/sh -c exit 3" did not complete successfully: exit code: 3\n',
    )


def test_a_missing_context_is_told(project: Project) -> None:
    missing = project.engine.run("build", f"{project.folder}/nowhere", check=False)
    assert missing.code == 1
    assert "nowhere" in missing.err


def test_a_step_may_leave_directories_of_any_depth_in_its_mounts(engine: Daemon) -> None:
    deep = "i=0; while [ $i -lt 1500 ]; do mkdir d && cd d; i=$((i+1)); done"
    text = f"FROM bb\nRUN --mount=type=bind,rw,target=/x --mount=type=cache,target=/y cd /x && {deep}; cd /y && {deep}; true\n"
    for _ in range(2):
        engine.run("build", "-q", "--no-cache", "-", stdin=text.encode())
    assert not [name for name in os.listdir(engine.root / "data/staging") if name.startswith("build-")]
