"""What log drivers may be asked, in Docker's words."""

from __future__ import annotations

import pytest

from wherry.containers import log_options
from wherry.containers.record import ContainerRecord, State
from wherry.errors import InvalidRequest
from wherry.spec.docker.container import Config, HostConfig, LogConfig

START = "failed to create task for container: failed to initialize logging driver: "


def record(driver: str = "json-file", **options: str) -> ContainerRecord:
    host = HostConfig(log_config=LogConfig(type=driver, config={name.replace("_", "-"): value for name, value in options.items()}))
    config = Config(
        image="bb:1",
        cmd=["sh", "-c", "true"],
        env=["FOO=bar", "FOZ=b,z", "OTHER=x"],
        labels={"com.x": "1", "com.y": "2", "z": "3"},
    )
    image_id = "sha256:" + "1" * 64
    common = {"path": "sh", "args": [], "state": State(), "snapshot": "s", "created_ns": 0}
    return ContainerRecord(id="a" * 64, name="boat", image_id=image_id, config=config, host_config=host, **common)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("driver", "options", "words"),
    [
        ("bogus", {}, 'error looking up logging plugin bogus: plugin "bogus" not found'),
        ("json-file", {"foo": ""}, "unknown log opt 'foo' for json-file log driver"),
        ("local", {"labels": "a"}, "unknown log opt 'labels' for log driver local"),
        ("local", {"mode": "bogus"}, "logger: logging mode not supported: bogus"),
        ("local", {"max-buffer-size": "4m"}, "logger: max-buffer-size option is only supported with 'mode=non-blocking'"),
        ("json-file", {"mode": "non-blocking", "max-buffer-size": "x"}, "error parsing option max-buffer-size: invalid size: 'x'"),
    ],
)
def test_names_are_refused_when_a_container_is_made(driver: str, options: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        log_options.check(LogConfig(type=driver, config=options))
    assert str(refused.value) == words


@pytest.mark.parametrize(
    ("driver", "options", "words"),
    [
        ("local", {"max_size": "bogus"}, "invalid value for max-size: bogus: invalid size: 'bogus'"),
        ("local", {"max_size": "-1"}, "invalid value for max-size: -1: invalid size: '-1'"),
        ("local", {"max_file": "x"}, 'invalid value for max-file: x: strconv.Atoi: parsing "x": invalid syntax'),
        ("local", {"max_file": "0"}, "compression cannot be enabled when max file count is 1"),
        ("local", {"max_file": "-3", "compress": "false"}, "max file count cannot be less than 0"),
        ("local", {"compress": "x"}, 'error reading compress log option: strconv.ParseBool: parsing "x": invalid syntax'),
        ("json-file", {"max_size": "0"}, "max-size must be a positive number"),
        ("json-file", {"max_size": "x"}, "invalid size: 'x'"),
        ("json-file", {"max_file": "0"}, "max-file cannot be less than 1"),
        ("json-file", {"max_file": "x"}, 'strconv.Atoi: parsing "x": invalid syntax'),
        ("json-file", {"compress": "true"}, "compress cannot be true when max-file is less than 2 or max-size is not set"),
        ("json-file", {"labels_regex": "["}, "error parsing regexp: unterminated character set: `[`"),
        ("json-file", {"tag": "{{"}, "template: log-tag:1: unclosed action"),
        (
            "json-file",
            {"tag": "{{.Bogus}}"},
            'template: log-tag:1:2: executing "log-tag" at <.Bogus>: can\'t evaluate field Bogus in type *logger.Info',
        ),
        (
            "json-file",
            {"tag": '{{split .Name "-"}}'},
            'template: log-tag:1: only fields like {{.Name}} are supported, not {{split .Name "-"}}',
        ),
    ],
)
def test_values_are_refused_when_it_starts(driver: str, options: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        log_options.target(record(driver, **options), "/c")
    assert str(refused.value) == START + words


def test_sizes_of_logs_are_decimal() -> None:
    assert log_options.target(record(max_size="20k"), "/c").max_size_bytes == 20_000
    assert log_options.target(record(max_size="1.5m"), "/c").max_size_bytes == 1_500_000
    assert log_options.target(record(max_size="10KB"), "/c").max_size_bytes == 10_000


def test_local_rotates_and_packs_unless_told_otherwise() -> None:
    target = log_options.target(record("local"), "/c")
    assert (target.path, target.max_size_bytes, target.max_files, target.compress) == ("/c/local-logs/container.log", 20 << 20, 5, True)
    plain = log_options.target(record("local", max_size="0", max_file="0", compress="f"), "/c")
    assert (plain.max_size_bytes, plain.max_files, plain.compress) == (1, 1, False)


def test_none_keeps_no_file_and_minds_no_option() -> None:
    log_options.check(LogConfig(type="none", config={"foo": "1"}))
    assert log_options.target(record("none", max_size="x"), "/c").path == ""


def test_attributes_are_labels_and_variables_by_name_and_pattern_and_the_tag() -> None:
    asked = {
        "labels": "com.x,absent",
        "labels_regex": "^com",
        "env": "OTHER,NOPE",
        "env_regex": "^FO",
        "tag": "{{.ImageName}}/{{ .Name }}/{{.ID}}",
    }
    assert log_options.target(record(**asked), "/c").attributes == {
        **{"com.x": "1", "com.y": "2", "OTHER": "x", "FOO": "bar", "FOZ": "b,z"},
        "tag": "bb:1/boat/aaaaaaaaaaaa",
    }
    command = log_options.target(record(tag="{{.Command}} {{.ImageID}} {{.ContainerName}}"), "/c").attributes
    assert command == {"tag": "sh -c true sha256:11111 /boat"}
