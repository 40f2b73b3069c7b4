"""When a container that ended is started again, and after how long.  Source: `docker run --restart`, moby's restart manager."""

from __future__ import annotations

from dataclasses import dataclass

from wherry.errors import InvalidRequest

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 60.0
STABLE_AFTER_S = 10.0  # a run this long starts the back-off anew
POLICIES = ("no", "always", "on-failure", "unless-stopped")


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """``maximum`` 0: as often as it takes (only for on-failure)."""

    name: str = "no"
    maximum: int = 0

    def wants(self, *, exit_code: int, manually_stopped: bool, count: int) -> bool:
        """Whether a container that just ended is started again; ``count`` is how often it was already."""
        if manually_stopped:
            return False
        if self.name == "on-failure":
            return exit_code != 0 and (self.maximum == 0 or count < self.maximum)
        return self.name in ("always", "unless-stopped")

    def wants_at_daemon_start(self, *, manually_stopped: bool, exit_code: int, count: int) -> bool:
        """Whether a container that ran before and has no process when the daemon starts is started by it.

        As after an exit, but for `always`, which does not mind a stop by hand, and on-failure, which minds the exit code only.
        """
        return self.wants(exit_code=exit_code, manually_stopped=manually_stopped and self.name not in ("always", "on-failure"), count=count)


def checked(name: str, maximum: int) -> RestartPolicy:
    """The policy named by a request.  Raises InvalidRequest in Docker's words."""
    if name and name not in POLICIES:
        raise InvalidRequest(
            f"invalid restart policy: unknown policy '{name}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        )
    if maximum and name != "on-failure":
        raise InvalidRequest("invalid restart policy: maximum retry count can only be used with 'on-failure'")
    if maximum < 0:
        raise InvalidRequest("invalid restart policy: maximum retry count cannot be negative")
    return RestartPolicy(name=name or "no", maximum=maximum)


def next_delay(previous_s: float, ran_s: float) -> float:
    """Seconds to wait before the next start; ``previous_s`` 0 for the first."""
    if previous_s <= 0 or ran_s >= STABLE_AFTER_S:
        return FIRST_DELAY_S
    return min(previous_s * 2, LONGEST_DELAY_S)
