"""What a container's health probes say: a pure state, moved by probe results.  Source: Engine API 1.51 Health; `HEALTHCHECK`."""

from __future__ import annotations

from dataclasses import dataclass

NS = 1_000_000_000
SHORTEST_NS = 1_000_000
KEPT_RESULTS = 5
KEPT_OUTPUT = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbePlan:
    """How to probe: an argument vector, and times in nanoseconds."""

    command: tuple[str, ...]
    interval_ns: int = 30 * NS
    timeout_ns: int = 30 * NS
    start_period_ns: int = 0
    start_interval_ns: int = 5 * NS
    retries: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """One probe; ``exit_code`` -1 for a timeout."""

    start_ns: int
    end_ns: int
    exit_code: int
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """``status``: starting, healthy or unhealthy; ``log``: the last results, oldest first."""

    status: str = "starting"
    failing_streak: int = 0
    log: tuple[ProbeResult, ...] = ()

    def after(self, result: ProbeResult, plan: ProbePlan, *, started_at_ns: int) -> Health:
        """The state once ``result`` is in: failures within the start period do not count until the first success."""
        log = (*self.log, result)[-KEPT_RESULTS:]
        if result.exit_code == 0:
            return Health(status="healthy", failing_streak=0, log=log)
        in_start_period = self.status == "starting" and result.start_ns - started_at_ns < plan.start_period_ns
        if in_start_period:
            return Health(status=self.status, failing_streak=self.failing_streak, log=log)
        streak = self.failing_streak + 1
        return Health(status="unhealthy" if streak >= plan.retries else self.status, failing_streak=streak, log=log)

    def next_wait_ns(self, plan: ProbePlan, *, started_at_ns: int, now_ns: int) -> int:
        """Nanoseconds until the next probe."""
        starting = self.status == "starting" and now_ns - started_at_ns < plan.start_period_ns
        return plan.start_interval_ns if starting else plan.interval_ns


def duration(length_ns: int) -> str:
    """As Go writes a duration: `1m30s`, `1.5s`, `500ms`."""
    if length_ns < NS:
        return f"{length_ns / 1e6:g}ms"
    minutes, rest = divmod(length_ns, 60 * NS)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + f"{rest / NS:.9g}s"


def plan_of(
    test: list[str], *, interval: int, timeout: int, start_period: int, start_interval: int, retries: int, shell: list[str]
) -> ProbePlan | None:
    """The plan of a Healthcheck config; None when there is none or it is NONE.  Zero means the default."""
    if not test or test[0] in ("NONE", ""):
        return None
    command = (*(shell or ["/bin/sh", "-c"]), *test[1:]) if test[0] == "CMD-SHELL" else tuple(test[1:])
    standard = ProbePlan(command=command)
    return ProbePlan(
        command=command,
        interval_ns=interval or standard.interval_ns,
        timeout_ns=timeout or standard.timeout_ns,
        start_period_ns=start_period,
        start_interval_ns=start_interval or standard.start_interval_ns,
        retries=retries or standard.retries,
    )
