"""Instructions that make files or settings, on real containers; expectations are what Docker 28.5 was seen to do."""

from __future__ import annotations

import io
import os
import tarfile

import pytest

from wherry.build.failures import BuildFailed, DockerfileError
from wherry.errors import InvalidRequest, NotSupported

from .conftest import Bench, add_base

pytestmark = pytest.mark.root


def listing(bench: Bench, dockerfile: str, files: dict[str, str | bytes] | None = None, show: str = "", **request: object) -> str:
    return bench.build(dockerfile + f"USER root\nWORKDIR /\nRUN {show}\n", files, **request).output


def test_owners_and_destinations_of_copy_are_dockers(bench: Bench) -> None:
    text = """FROM base AS one
RUN mkdir -p /s/t; echo a > /s/f; chown -R 1000:1001 /s; chmod 700 /s; chmod 750 /s/t
RUN ln -s /tmp /lnk; mkdir /ex; chmod 711 /ex; echo t > /tgt; ln -s /tgt /flnk
FROM one
COPY --from=one /s /dst
COPY --from=one /s/f /dst2/q/f
COPY --chown=bob d /own/deep/d
COPY d /ex
COPY a.txt /lnk
COPY a.txt /flnk
COPY --chown=5 a.txt /five
COPY --chown=bob a.txt /bb
COPY --chown=:6 a.txt /six
USER bob
WORKDIR /wd/sub
COPY a.txt /tmp/user
"""
    paths = "/dst /dst/f /dst/t /dst2 /dst2/q /dst2/q/f /own /own/deep/d /own/deep/d/x /ex /ex/x /tmp/a.txt /flnk /tgt /five /bb /six"
    paths += " /wd /wd/sub /tmp/user"
    shown = listing(bench, text, {"a.txt": "hello\n", "d/x": "1"}, f"stat -c '%n %a %u:%g %F' {paths}")
    assert shown.splitlines() == [
        "/dst 755 0:0 directory",
        "/dst/f 644 1000:1001 regular file",
        "/dst/t 750 1000:1001 directory",
        "/dst2 755 0:0 directory",
        "/dst2/q 755 0:0 directory",
        "/dst2/q/f 644 1000:1001 regular file",
        "/own 755 1000:1001 directory",
        "/own/deep/d 755 1000:1001 directory",
        "/own/deep/d/x 644 1000:1001 regular file",
        "/ex 711 0:0 directory",
        "/ex/x 644 0:0 regular file",
        "/tmp/a.txt 644 0:0 regular file",
        "/flnk 777 0:0 symbolic link",
        "/tgt 644 0:0 regular file",
        "/five 644 5:5 regular file",
        "/bb 644 1000:1001 regular file",
        "/six 644 0:6 regular file",
        "/wd 755 1000:1001 directory",
        "/wd/sub 755 1000:1001 directory",
        "/tmp/user 644 0:0 regular file",
    ]


def test_copy_takes_content_of_directories_wildcards_and_clips_parents(bench: Bench) -> None:
    files: dict[str, str | bytes] = {"d/x": "1", "d/e/y": "2", "a1.txt": "a", "a2.txt": "b", "b.md": "c"}
    text = 'FROM base\nCOPY d /d/\nCOPY a*.txt ../../b.md /many/\nCOPY ["a1.txt", "/named"]\nCOPY zz* /none/\n'
    assert listing(bench, text, files, "find /d /many /named | sort").split() == [
        *("/d", "/d/e", "/d/e/y", "/d/x", "/many", "/many/a1.txt", "/many/a2.txt", "/many/b.md", "/named"),
    ]


def test_a_missing_source_is_named_in_both_wordings(bench: Bench) -> None:
    with pytest.raises(BuildFailed, match=r"COPY failed: file not found .* stat nosuch: file does not exist") as failure:
        bench.build("FROM base\nCOPY nosuch /x\n")
    assert failure.value.detail == 'failed to compute cache key: failed to calculate checksum of ref: "/nosuch": not found'
    assert ">>> COPY nosuch /x" in failure.value.excerpt
    assert bench.left() == ([], [])


def test_ignored_files_are_not_there(bench: Bench) -> None:
    files: dict[str, str | bytes] = {
        ".dockerignore": "*.log\nsecret\n!secret/kept\n**/*.tmp\n",
        "a.log": "",
        "s/c.log": "",
        "s/x.tmp": "",
        "secret/a": "",
        "secret/kept": "",
    }
    assert listing(bench, "FROM base\nCOPY . /c\n", files, "find /c -type f | sort").split() == [
        *("/c/.dockerignore", "/c/Dockerfile", "/c/s/c.log", "/c/secret/kept"),
    ]
    with pytest.raises(BuildFailed, match=r"stat a\.log: file does not exist"):
        bench.build("FROM base\nCOPY a.log /\n", files)


def test_chmod_in_octal_and_symbols(bench: Bench) -> None:
    text = "FROM base\nCOPY --chmod=0751 a /a\nCOPY --chmod=u=rwX,go=rX d /d\nCOPY --chmod=4755 a /s\n"
    assert listing(bench, text, {"a": "", "d/f": ""}, "stat -c %a /a /d/f /s").split() == ["751", "644", "4755"]
    text = "FROM base\nCOPY --chmod=4711 a /n/a\nCOPY --chmod=777 d /w/d\nCOPY --chmod=600 a /p/q/a\n"
    shown = listing(bench, text, {"a": "", "d/f": ""}, "stat -c %a /n /n/a /w /w/d /w/d/f /p /p/q /p/q/a")
    assert shown.split() == ["711", "4711", "755", "755", "777", "600", "600", "600"]  # directories that are made on the way get less
    with pytest.raises(BuildFailed, match="invalid chmod parameter: '99999'"):
        bench.build("FROM base\nCOPY --chmod=99999 a /a\n", {"a": ""})


def test_an_unknown_owner_fails(bench: Bench) -> None:
    with pytest.raises(BuildFailed, match="no such user: nosuch"):
        bench.build("FROM base\nCOPY --chown=nosuch a /a\n", {"a": ""})


def test_a_directory_does_not_replace_a_file(bench: Bench) -> None:
    with pytest.raises(BuildFailed, match="cannot copy to non-directory: /bin/busybox"):
        bench.build("FROM base\nCOPY d /bin/busybox\n", {"d/x": ""})


def test_exclude_parents_and_link(bench: Bench) -> None:
    files: dict[str, str | bytes] = {"d/a.txt": "", "d/b.md": "", "x/y/z": "", "x/y/w": ""}
    text = "FROM base\nRUN ln -s /tmp /to\nCOPY --exclude=*.md d /d\nCOPY --parents x/y/z x/./y/w /p/\nCOPY --link d/a.txt /to/\n"
    shown = listing(bench, text, files, "find /d /p /to /tmp | sort")
    assert shown.split() == ["/d", "/d/a.txt", "/p", "/p/x", "/p/x/y", "/p/x/y/z", "/p/y", "/p/y/w", "/tmp", "/to", "/to/a.txt"]


def tar_of(names: dict[str, str], mode: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, content in names.items():
            info = tarfile.TarInfo(name)
            info.size, info.uid, info.gid = len(content), 7, 8
            tar.addfile(info, io.BytesIO(content.encode()))
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_add_unpacks_local_archives_and_copy_does_not(bench: Bench, mode: str) -> None:
    files: dict[str, str | bytes] = {"a.tar": tar_of({"in/x": "1"}, mode), "n.gz": b"\x1f\x8bnot really"}
    text = "FROM base\nADD a.tar /add/\nCOPY a.tar /copied/\nADD n.gz /n/\nADD --unpack=false a.tar /kept/\n"
    assert listing(bench, text, files, "find /add /copied /n /kept -type f | sort; stat -c %u:%g /add/in/x").split() == [
        *("/add/in/x", "/copied/a.tar", "/kept/a.tar", "/n/n.gz", "7:8"),
    ]


def test_an_archive_cannot_write_outside(bench: Bench) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        link = tarfile.TarInfo("out")
        link.type, link.linkname = tarfile.SYMTYPE, "/tmp"
        tar.addfile(link)
        tar.addfile(tarfile.TarInfo("out/canary-of-the-build-test"))
    with pytest.raises(BuildFailed, match="ADD failed: out"):
        bench.build("FROM base\nADD evil.tar /x/\n", {"evil.tar": buffer.getvalue()})
    assert not os.path.exists("/tmp/canary-of-the-build-test")


def test_a_link_in_the_image_cannot_lead_copy_outside(bench: Bench) -> None:
    bench.build(
        "FROM base\nRUN ln -s /../../../../tmp /esc; ln -s ../../../.. /up\nCOPY a /esc/canary-of-copy\nCOPY a /up/tmp/canary-of-copy2\n",
        {"a": ""},
    )
    assert not os.path.exists("/tmp/canary-of-copy")
    assert not os.path.exists("/tmp/canary-of-copy2")


def test_a_link_in_the_context_cannot_lead_outside(bench: Bench) -> None:
    context = bench.context("FROM base\nCOPY leak /leak\n")
    (context / "leak").symlink_to("/etc/hostname")
    with pytest.raises(BuildFailed, match="stat leak: file does not exist"):
        bench.build_in(context)


def test_a_fifo_or_device_in_the_context_does_not_block(bench: Bench) -> None:
    context = bench.context("FROM base\nCOPY . /c\nRUN find /c -type p\n")
    os.mkfifo(context / "pipe")
    assert bench.build_in(context).output == "/c/pipe\n"
    context = bench.context("FROM base\nCOPY . /c\n")
    os.mknod(context / "null", 0o600 | 0o020000, os.makedev(1, 3))
    with pytest.raises(BuildFailed, match="refusing to copy a device file"):
        bench.build_in(context)


def test_heredocs_run_and_copy(bench: Bench) -> None:
    text = """FROM base
ARG NAME=world
RUN <<EOF
echo one
echo two
EOF
RUN cat <<A && cat <<-"B"
in a
A
	in b $NAME
	B
RUN <<EOF
#!/bin/cat
from cat
EOF
COPY <<F1 <<"F2" /docs/
hello $NAME
F1
hello $NAME
F2
RUN cat /docs/F1 /docs/F2; stat -c %a /docs/F1
"""
    assert bench.build(text).output.splitlines() == [
        *("one", "two", "in a", "in b $NAME", "#!/bin/cat", "from cat", "hello world", "hello $NAME", "644"),
    ]


def test_a_documents_name_is_no_path(bench: Bench) -> None:
    for name, message in (
        ("../../../../../../tmp/escaped", "open /tmp/escaped: no such file or directory"),
        ("a/b", "open /a/b: no such file or directory"),
        ("..", "open : is a directory"),
    ):
        with pytest.raises(BuildFailed, match=message):
            bench.build(f"FROM base\nCOPY <<{name} /x/\nhello\n{name}\n")
    assert not os.path.exists("/tmp/escaped")
    assert listing(bench, "FROM base\nCOPY <<a/../q /x/\nhello\na/../q\n", show="cat /x/q") == "hello\n"


def test_environment_arguments_and_user_of_run(bench: Bench) -> None:
    text = """FROM base
ARG A=1
ARG B
ARG C=c
ENV C=env D="$A d" L=env
ARG A
ARG L=late
ARG N
USER bob
WORKDIR /w
RUN env | sort; id; pwd; hostname
"""
    outcome = bench.build(text, build_args={"B": "2", "UNUSED": "x", "HTTP_PROXY": "http://p"})
    assert [line for line in outcome.output.splitlines() if not line.startswith(("SHLVL", "HOSTNAME"))] == [
        *("A=1", "B=2", "C=env", "D=1 d", "HOME=/home/bob", "HTTP_PROXY=http://p", "L=late"),
        *("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "PWD=/w"),
        *("uid=1000(bob) gid=1001(bobs) groups=1001(bobs)", "/w", "buildkitsandbox"),
    ]
    history = [line.created_by for line in bench.config(outcome).history or ()]
    assert history[-1] == "RUN |5 A=1 B=2 C=env L=late N= /bin/sh -c env | sort; id; pwd; hostname # buildkit"
    assert bench.config(outcome).settings.env == [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "C=env",
        "D=1 d",
        "L=env",
    ]


def test_stages_by_name_index_and_target(bench: Bench) -> None:
    text = """ARG WHAT=base
FROM $WHAT AS one
RUN echo one > /one
FROM scratch AS two
COPY --from=0 /one /one
FROM base AS unused
RUN exit 9
FROM base
COPY --from=two /one /two
COPY --from=base /etc/group /group
RUN cat /two /group
"""
    assert bench.build(text).output == "one\nroot:x:0:\nbobs:x:1001:\n"
    with pytest.raises(BuildFailed, match="code: 9"):
        bench.build(text, target="unused")
    with pytest.raises(DockerfileError, match='target stage "nope" could not be found'):
        bench.build(text, target="nope")
    outcome = bench.build(text, target="two")
    assert len(bench.config(outcome).rootfs.diff_ids) == 1


def test_triggers_of_a_base_run_after_from_and_only_once(bench: Bench) -> None:
    bench.build('FROM base\nONBUILD RUN echo triggered\nONBUILD COPY a /a\nCMD ["x"]\n', tags=("trig",))
    child = bench.build("FROM trig\nRUN cat /a\n", {"a": "from context\n"}, tags=("trig2",))
    assert "triggered\n" in child.output
    assert child.output.endswith("from context\n")
    assert "triggered" not in bench.build("FROM trig2\nRUN echo again\n").output


def test_history_and_made_directories_are_buildkits(bench: Bench) -> None:
    text = """FROM base AS one
FROM base
ONBUILD RUN x
COPY --link --chmod=600 --chown=5 ["a b", "/j/"]
COPY --exclude=*.x --from=one etc/group /k/
COPY c <<E /l/
E
RUN stat -c %a:%u /j /k
"""
    outcome = bench.build(text, {"a b": "", "c": ""})
    assert outcome.output == "600:5\n755:0\n"
    assert [line.created_by for line in bench.config(outcome).history or ()][-4:-1] == [
        *("COPY --chown=5 --chmod=600 a b /j/ # buildkit", "COPY etc/group /k/ # buildkit", "COPY c <<E /l/ # buildkit")
    ]
    for platform in ("linux/a/b/c", "nowhere"):
        with pytest.raises(InvalidRequest, match="invalid argument"):
            bench.build("FROM base\n", platform=platform)
        with pytest.raises(DockerfileError, match=f"failed to parse platform {platform}: "):
            bench.build(f"FROM --platform={platform} base\n")


def test_cache_mount_keeps_and_no_cache_empties_it(bench: Bench) -> None:
    run = "RUN --mount=type=cache,target=/k,id=kept echo {} >> /k/log; cat /k/log\n"
    assert bench.build("FROM base\n" + run.format("a")).output == "a\n"
    assert bench.build("FROM base\n" + run.format("b")).output == "a\nb\n"
    assert bench.build("FROM base\n" + run.format("c"), no_cache=True).output == "c\n"


def test_bind_mounts_of_context_and_stages(bench: Bench) -> None:
    text = """FROM base AS src
RUN mkdir -p /d/sub; echo low > /d/low; echo gone > /d/gone
RUN rm /d/gone; echo up > /d/up; ln -s d /alias
FROM base
RUN --mount=target=/ctx cat /ctx/a.txt; touch /ctx/new 2>/dev/null || echo readonly
RUN --mount=type=bind,from=src,source=/alias,target=/s find /s | sort
RUN --mount=type=bind,from=src,source=/d/up,target=/f cat /f
RUN --mount=type=bind,from=src,source=/d,target=/s,rw echo x > /s/new; find /s -type f | sort
RUN --mount=type=bind,source=sub,target=/c,rw echo y > /c/new && cat /c/new
RUN --mount=type=tmpfs,target=/t,size=1m touch /t/x; stat -f -c %T /t
RUN ls -d /s /t /c /f /ctx 2>/dev/null || echo nothing stays
"""
    context = bench.context(text, {"a.txt": "content\n", "sub/k": ""})
    outcome = bench.build_in(context)
    assert outcome.output.splitlines() == [
        *("content", "readonly", "/s", "/s/low", "/s/sub", "/s/up", "up", "/s/low", "/s/new", "/s/up", "y", "tmpfs", "nothing stays"),
    ]
    assert not (context / "sub/new").exists()
    assert bench.build_in(context).result.steps_cached == outcome.result.steps
    (context / "a.txt").write_text("changed\n")
    assert "changed" in bench.build_in(context).output


def test_secrets_are_seen_by_their_step_only(bench: Bench) -> None:
    text = """FROM base
RUN --mount=type=secret,id=s cat /run/secrets/s; stat -c %a /run/secrets/s
RUN --mount=type=secret,id=s,env=TOK echo $TOK
RUN --mount=type=secret,id=missing test ! -e /run/secrets/missing
"""
    outcome = bench.build(text, secrets={"s": b"hush\n"})
    assert outcome.output.split() == ["hush", "400", "hush"]
    assert "hush" not in repr(bench.config(outcome))
    with pytest.raises(BuildFailed, match="secret missing: not found"):
        bench.build("FROM base\nRUN --mount=type=secret,id=missing,required true\n")
    bench.build("FROM base\nRUN --mount=type=ssh true\n")
    with pytest.raises(BuildFailed, match="unset ssh forward key default"):
        bench.build("FROM base\nRUN --mount=type=ssh,required true\n")  # not from the cache: the agent was not needed there


def test_run_without_network_and_host_network_need_leave(bench: Bench) -> None:
    assert bench.build("FROM base\nRUN --network=none ls /sys/class/net\n").output.split() == ["lo"]
    with pytest.raises(DockerfileError, match=r"network\.host is not allowed"):
        bench.build("FROM base\nRUN --network=host true\n")


def test_workdir_that_exists_makes_no_layer(bench: Bench) -> None:
    outcome = bench.build("FROM base\nWORKDIR /tmp\nWORKDIR /new\n")
    config = bench.config(outcome)
    assert len(config.rootfs.diff_ids) == 2
    assert [line.empty_layer for line in config.history or ()] == [False, True, False]
    assert config.settings.working_dir == "/new"


def test_workdir_through_proc_lands_inside(bench: Bench) -> None:
    for fd in (3, 5, 9):
        with pytest.raises(BuildFailed):
            bench.build(f"FROM base\nWORKDIR /proc/self/fd/{fd}/x\nRUN ls\n")


def test_a_program_that_is_not_there(bench: Bench) -> None:
    with pytest.raises(BuildFailed) as failure:
        bench.build('FROM base\nRUN ["nosuchprog"]\n')
    assert failure.value.code == 0  # as Docker: the client ends with 1
    assert "nosuchprog" in failure.value.detail
    assert bench.left() == ([], [])


def test_scratch_has_no_shell(bench: Bench) -> None:
    with pytest.raises(BuildFailed, match="/bin/sh"):
        bench.build("FROM scratch\nRUN true\n")


def test_git_sources_are_refused_by_name(bench: Bench) -> None:
    with pytest.raises(NotSupported, match="ADD of a git repository is not supported"):
        bench.build("FROM base\nADD https://example.org/x.git /x\n")


def test_labels_of_the_request_and_settings_reach_the_config(bench: Bench) -> None:
    text = """FROM base
EXPOSE 80 90-91/udp
VOLUME /data ["x"]
VOLUME ["/v1"]
SHELL ["/bin/sh","-ec"]
HEALTHCHECK --interval=5s CMD true
STOPSIGNAL SIGTERM
ENTRYPOINT ["/bin/sh"]
CMD -c foo
LABEL b="2 3" c=d
MAINTAINER me
"""
    config = bench.config(bench.build(text, labels={"a": "1"}))
    settings = config.settings
    assert settings.exposed_ports == {"80/tcp": {}, "90/udp": {}, "91/udp": {}}
    assert set(settings.volumes or {}) == {"/data", "[x]", "/v1"}
    assert settings.cmd == ["/bin/sh", "-ec", "-c foo"]
    assert settings.labels == {"a": "1", "b": "2 3", "c": "d"}
    assert config.author == "me"
    assert [line.created_by for line in config.history or ()][5] == 'HEALTHCHECK &{["CMD-SHELL" "true"] "5s" "0s" "0s" "0s" \'\\x00\'}'


def test_entrypoint_resets_an_inherited_command(bench: Bench) -> None:
    add_base(bench, "withcmd", bench.root / "withcmd", cmd=["inherited"])
    assert bench.config(bench.build('FROM withcmd\nENTRYPOINT ["e"]\n')).settings.cmd is None
    assert bench.config(bench.build('FROM withcmd\nCMD ["own"]\nENTRYPOINT ["e"]\n')).settings.cmd == ["own"]
