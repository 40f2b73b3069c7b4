"""``wherry stop``."""

from __future__ import annotations

from wherry.cli.halting import halting

COMMAND = halting("stop", "Stop one or more running containers")
