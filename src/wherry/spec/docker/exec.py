"""Exec bodies.  Source: Engine API 1.51."""

from __future__ import annotations

from typing import Annotated

from wherry.spec.docker.body import WORDS, Body, shown


class ExecCreate(Body):
    """POST /containers/{id}/exec."""

    user: str = shown("")
    privileged: bool = shown(False)
    tty: bool = shown(False)
    console_size: tuple[int, int] | None = None  # height, width
    attach_stdin: bool = shown(False)
    attach_stderr: bool = shown(False)
    attach_stdout: bool = shown(False)
    detach_keys: str = shown("")
    env: list[str] | None = shown(None)
    working_dir: str = shown("")
    cmd: Annotated[list[str], WORDS] | None = shown(None)


class ExecCreated(Body):
    id: str = shown("")


class ExecStart(Body):
    """POST /exec/{id}/start."""

    detach: bool = shown(False)
    tty: bool = shown(False)
    console_size: tuple[int, int] | None = None


class ProcessConfig(Body, rename="lower"):
    tty: bool = shown(False)
    entrypoint: str = shown("")
    arguments: list[str] = shown([])
    privileged: bool = shown(False)
    user: str = ""


class ExecInspect(Body):
    """GET /exec/{id}/json.  ``exit_code`` null until it has ended."""

    id: str = shown("", "ID")
    running: bool = shown(False)
    exit_code: int | None = shown(None)
    process_config: ProcessConfig = shown(ProcessConfig())
    open_stdin: bool = shown(False)
    open_stderr: bool = shown(False)
    open_stdout: bool = shown(False)
    can_remove: bool = shown(False)
    container_id: str = shown("", "ContainerID")
    detach_keys: str = shown("")
    pid: int = shown(0)
