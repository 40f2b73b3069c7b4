"""Health as probes move it."""

from __future__ import annotations

from wherry.containers.health import NS, Health, ProbePlan, ProbeResult, duration, plan_of

PLAN = ProbePlan(command=("x",), retries=2, start_period_ns=10 * NS)


def result(code: int, at_s: int = 20) -> ProbeResult:
    return ProbeResult(start_ns=at_s * NS, end_ns=at_s * NS, exit_code=code, output="")


def test_healthy_after_one_success_and_unhealthy_after_the_retries() -> None:
    health = Health().after(result(1), PLAN, started_at_ns=0)
    assert (health.status, health.failing_streak) == ("starting", 1)
    health = health.after(result(1), PLAN, started_at_ns=0)
    assert (health.status, health.failing_streak) == ("unhealthy", 2)
    health = health.after(result(0), PLAN, started_at_ns=0)
    assert (health.status, health.failing_streak) == ("healthy", 0)


def test_failures_in_the_start_period_do_not_count_until_the_first_success() -> None:
    health = Health()
    for _ in range(5):
        health = health.after(result(1, at_s=5), PLAN, started_at_ns=0)
    assert (health.status, health.failing_streak) == ("starting", 0)
    health = health.after(result(0, at_s=6), PLAN, started_at_ns=0).after(result(1, at_s=7), PLAN, started_at_ns=0)
    assert health.failing_streak == 1


def test_durations_are_written_as_go_writes_them() -> None:
    lengths = {500 * 10**6: "500ms", 1500 * 10**6: "1.5s", 30 * NS: "30s", 90 * NS: "1m30s", 3600 * NS: "1h0m0s"}
    assert {length: duration(length) for length in lengths} == lengths


def test_only_the_last_five_results_are_kept() -> None:
    health = Health()
    for at in range(20, 30):
        health = health.after(result(0, at_s=at), PLAN, started_at_ns=0)
    assert [kept.start_ns // NS for kept in health.log] == [25, 26, 27, 28, 29]


def test_a_shell_test_runs_in_the_images_shell_and_zero_means_default() -> None:
    plan = plan_of(["CMD-SHELL", "a b"], interval=0, timeout=5, start_period=0, start_interval=0, retries=0, shell=["/bin/ash", "-c"])
    assert plan is not None
    assert plan.command == ("/bin/ash", "-c", "a b")
    assert (plan.interval_ns, plan.timeout_ns, plan.retries) == (30 * NS, 5, 3)
    assert plan_of(["NONE"], interval=0, timeout=0, start_period=0, start_interval=0, retries=0, shell=[]) is None
