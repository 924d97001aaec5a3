"""The process that `process_kill` kills: drives with a log, and dies in mid-drive without a chance to close it."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from edgeguard.audit.log import AuditLog
from edgeguard.clock import NS_PER_S, ManualClock
from edgeguard.sim.scenario import Scenario
from edgeguard.sim.system import drive
from edgeguard.types import FrameResult


def main(arguments: list[str]) -> None:
    """Drive as told on the command line: scenario.json, seed, when to die in seconds, log folder."""
    told, seed, dies_s, folder = arguments
    plan = json.loads(Path(told).read_text(encoding="utf-8"))
    scenario = Scenario("victim", "", plan["duration_s"], sensors=tuple(plan["sensors"]))
    clock = ManualClock()

    def on_frame(frame: FrameResult) -> None:
        if frame.synced.stamp_ns >= round(float(dies_s) * NS_PER_S):
            os.kill(os.getpid(), signal.SIGKILL)

    with AuditLog(Path(folder), clock=clock) as audit:
        drive(scenario, int(seed), clock, audit, on_frame)


if __name__ == "__main__":
    main(sys.argv[1:])
