"""``wherry restart``."""

from __future__ import annotations

from wherry.cli.halting import halting

COMMAND = halting("restart", "Restart one or more containers")
