"""Log drivers and their options: what may be asked of them, and what the monitor is told.

As with Docker, the options' names are checked when a container is made, their values when it starts.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping

from wherry.containers.record import ContainerRecord
from wherry.errors import InvalidRequest
from wherry.spec.docker.container import LogConfig
from wherry.spec.launch import LogTarget

DRIVERS = ("json-file", "local", "none")
_ANY_DRIVER = frozenset({"mode", "max-buffer-size", "cache-disabled", "cache-max-file", "cache-max-size", "cache-compress"})
_FILES = frozenset({"max-size", "max-file", "compress"})
_ATTRIBUTES = frozenset({"labels", "labels-regex", "env", "env-regex", "tag"})
_OPTIONS = {"json-file": _ANY_DRIVER | _FILES | _ATTRIBUTES, "local": _ANY_DRIVER | _FILES}
_UNKNOWN = {"json-file": "unknown log opt '{}' for json-file log driver", "local": "unknown log opt '{}' for log driver local"}
_LOCAL_DEFAULTS = {"max-size": str(20 << 20), "max-file": "5", "compress": "true"}
_UNSTARTABLE = "failed to create task for container: failed to initialize logging driver: "
_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4, "p": 1000**5}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kmgtp]?)(?:i?b)?", re.IGNORECASE)
_TRUE, _FALSE = ("1", "t", "T", "TRUE", "true", "True"), ("0", "f", "F", "FALSE", "false", "False")
_FIELD = re.compile(r"{{\s*\.([A-Za-z]+)\s*}}")


def check(log: LogConfig) -> None:
    """Raises InvalidRequest for a driver or an option there is not."""
    if log.type not in DRIVERS:
        raise InvalidRequest(f'error looking up logging plugin {log.type}: plugin "{log.type}" not found')
    if log.type == "none":
        return
    options = log.config or {}
    for option in options:
        if option not in _OPTIONS[log.type]:
            raise InvalidRequest(_UNKNOWN[log.type].format(option))
    mode = options.get("mode", "")
    if mode not in ("", "blocking", "non-blocking"):
        raise InvalidRequest(f"logger: logging mode not supported: {mode}")
    if "max-buffer-size" in options:
        if mode != "non-blocking":
            raise InvalidRequest("logger: max-buffer-size option is only supported with 'mode=non-blocking'")
        try:
            _size(options["max-buffer-size"])
        except ValueError as error:
            raise InvalidRequest(f"error parsing option max-buffer-size: {error}") from None


def path(record: ContainerRecord, folder: str) -> str:
    """The newest file of a container's log; empty when its driver keeps none."""
    match record.host_config.log_config.type:
        case "none":
            return ""
        case "local":
            return os.path.join(folder, "local-logs", "container.log")
    return os.path.join(folder, f"{record.id}-json.log")


def target(record: ContainerRecord, folder: str) -> LogTarget:
    """What the monitor is told.  Raises InvalidRequest for a value that means nothing, in the words of a start that failed."""
    driver, options = record.host_config.log_config.type, record.host_config.log_config.config or {}
    try:
        match driver:
            case "json-file":
                return _json_target(record, path(record, folder), options)
            case "local":
                return _local_target(path(record, folder), {**_LOCAL_DEFAULTS, **options})
    except ValueError as error:
        raise InvalidRequest(f"{_UNSTARTABLE}{error}") from None
    return LogTarget(driver=driver)


def _json_target(record: ContainerRecord, file: str, options: Mapping[str, str]) -> LogTarget:
    size = 0
    if "max-size" in options and (size := _size(options["max-size"])) <= 0:
        raise ValueError("max-size must be a positive number")
    files = _whole_number(options.get("max-file", "1"))
    if files < 1:
        raise ValueError("max-file cannot be less than 1")
    compress = _truth(options.get("compress", "false"))
    if compress and (files < 2 or not size):
        raise ValueError("compress cannot be true when max-file is less than 2 or max-size is not set")
    attributes = _attributes(record, options)
    return LogTarget(driver="json-file", path=file, max_size_bytes=size, max_files=files, compress=compress, attributes=attributes)


def _local_target(file: str, options: Mapping[str, str]) -> LogTarget:
    try:
        size = _size(options["max-size"])
    except ValueError as error:
        raise ValueError(f"invalid value for max-size: {options['max-size']}: {error}") from None
    try:
        files = _whole_number(options["max-file"])
    except ValueError as error:
        raise ValueError(f"invalid value for max-file: {options['max-file']}: {error}") from None
    try:
        compress = _truth(options["compress"])
    except ValueError as error:
        raise ValueError(f"error reading compress log option: {error}") from None
    if files < 0:
        raise ValueError("max file count cannot be less than 0")
    if compress and files < 2:
        raise ValueError("compression cannot be enabled when max file count is 1")
    # nought is no absence of a limit there: every entry has a file of its own
    return LogTarget(driver="local", path=file, max_size_bytes=max(size, 1), max_files=max(files, 1), compress=compress)


def _attributes(record: ContainerRecord, options: Mapping[str, str]) -> dict[str, str]:
    """What stands in every entry, and `logs --details` shows."""
    variables = dict(item.split("=", 1) for item in record.config.env or [] if "=" in item)
    found: dict[str, str] = {}
    for named, by_pattern, values in (
        ("labels", "labels-regex", record.config.labels or {}),
        ("env", "env-regex", variables),
    ):
        for name in options.get(named, "").split(","):
            if name in values:
                found[name] = values[name]
        if pattern := options.get(by_pattern):
            matches = _pattern(pattern).search
            found |= {name: value for name, value in values.items() if matches(name)}
    if template := options.get("tag"):
        found["tag"] = _tag(record, template)
    return found


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise ValueError(f"error parsing regexp: {error.msg}: `{text}`") from None


def _tag(record: ContainerRecord, template: str) -> str:
    """``{{.Name}}/{{.ID}}`` with the container's own; Go's functions are not there."""
    words = [*(record.config.entrypoint or []), *(record.config.cmd or [])]
    values = {
        "ID": record.id[:12],
        "FullID": record.id,
        "Name": record.name,
        "ContainerName": f"/{record.name}",
        "ContainerID": record.id,
        "ImageID": record.image_id[:12],
        "ImageFullID": record.image_id,
        "ImageName": record.config.image,
        "DaemonName": "wherry",
        "Command": " ".join(words),
        "Hostname": socket.gethostname(),
    }
    for literal in _FIELD.sub("", template).split("{{")[1:]:
        if "}}" not in literal:
            raise ValueError("template: log-tag:1: unclosed action")
        raise ValueError(f"template: log-tag:1: only fields like {{{{.Name}}}} are supported, not {{{{{literal.partition('}}')[0]}}}}}")
    for match in _FIELD.finditer(template):
        if match[1] not in values:
            place = f'template: log-tag:1:{match.start() + 2}: executing "log-tag" at <.{match[1]}>'
            raise ValueError(f"{place}: can't evaluate field {match[1]} in type *logger.Info")
    return _FIELD.sub(lambda match: values[match[1]], template)


def _size(text: str) -> int:
    """Sizes of logs are decimal, as Docker takes them: 20k is 20,000."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"invalid size: '{text}'")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def _whole_number(text: str) -> int:
    if not re.fullmatch("[+-]?[0-9]{1,9}", text):
        raise ValueError(f'strconv.Atoi: parsing "{text}": invalid syntax')
    return int(text)


def _truth(text: str) -> bool:
    if text not in (*_TRUE, *_FALSE):
        raise ValueError(f'strconv.ParseBool: parsing "{text}": invalid syntax')
    return text in _TRUE
