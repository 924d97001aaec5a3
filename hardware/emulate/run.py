"""Run the smoke suite as on a board and on this machine, and compare.

    python hardware/emulate/run.py                       the Raspberry Pi 4
    python hardware/emulate/run.py --board pi5 --code pi4
    python hardware/emulate/run.py --only model --only restoration

The first run compiles every kernel under emulation, which takes half an hour; later ones find them in the cache.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boards import (
    BOARDS,
    EXIT_FINDING,
    EXIT_MISSING,
    HERE,
    Board,
    Cache,
    MissingError,
    emulated,
    native,
    require_arm,
    require_ready,
    run,
)

COMPARED = ("model", "restoration", "sensors", "second")  # run on both; in the order of how long they take
KERNELS = "kernels"  # held against their NumPy twins on the board alone
PARTS = (*COMPARED, KERNELS)
NATIVE_LIMIT_S = 900.0
# These start Python again by themselves, which needs the kernel's help (binfmt).
STARTS_PROCESSES = "tests/kernels/test_warmup.py"


@dataclass(frozen=True, slots=True)
class Part:
    """What became of one part: comparisons, how long it took, and why it failed, if it did."""

    name: str
    rows: list[dict[str, Any]]
    native_s: float
    emulated_s: float
    failure: str = ""

    @property
    def passed(self) -> bool:
        """Whether it ran and every comparison held."""
        return not self.failure and all(row["met"] for row in self.rows)


def run_part(name: str, cache: Cache, board: Board, code_of: Board, limit_s: float, given: Path) -> Part:
    """Run one part on both machines and compare.

    Raises:
        MissingError: the emulation is not ready.
    """
    if name == KERNELS:
        return _kernels(cache, board, code_of, limit_s)
    from compare import compare

    script = str(HERE / "smoke" / f"{name}.py")
    here, there = (_empty(cache.folder / "made" / where / name) for where in ("native", board.name))
    spent = []
    for made, command_of, bound_s in (
        (here, native, NATIVE_LIMIT_S),
        (there, lambda words: emulated(cache, board, words, code_of), limit_s),
    ):
        seconds, failure = _timed(command_of([script, str(given), str(made)]), bound_s)
        spent.append(seconds)
        if failure:
            return Part(name, [], spent[0], sum(spent[1:]), failure)
    return Part(name, [row.record() for row in compare(name, here, there)], spent[0], spent[1])


def _kernels(cache: Cache, board: Board, code_of: Board, limit_s: float) -> Part:
    """Run the tests that hold the kernels against their twins, as on the board."""
    words = ["-m", "pytest", "-q", "--no-header", "-m", "not slow", "--ignore", STARTS_PROCESSES, "tests/kernels"]
    started_s = time.monotonic()
    try:
        done = run(emulated(cache, board, words, code_of), limit_s)
    except subprocess.TimeoutExpired:
        return Part(KERNELS, [], 0.0, limit_s, f"not done after {limit_s:.0f} s; raise it with --limit-s")
    seconds, said = time.monotonic() - started_s, (done.stdout.strip().splitlines() or [done.stderr.strip()])[-1]
    row = {"what": "tests of tests/kernels that failed", "measured": done.returncode, "limit": 0, "note": said}
    return Part(KERNELS, [row | {"met": done.returncode == 0}], 0.0, seconds, "" if done.returncode == 0 else said)


def _timed(command: list[str], limit_s: float) -> tuple[float, str]:
    """Return how long a command took, and how it failed; empty when it did not."""
    started_s = time.monotonic()
    try:
        done = run(command, limit_s)
    except subprocess.TimeoutExpired:
        return limit_s, f"not done after {limit_s:.0f} s; what was compiled is kept: run it again, or raise --limit-s"
    failure = "" if done.returncode == 0 else f"exit {done.returncode}: {done.stderr.strip()[-2000:]}"
    return time.monotonic() - started_s, failure


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _given(cache: Cache) -> Path:
    """Make what the parts begin with, anew: it is a matter of seconds."""
    from release import make_given

    folder = cache.folder / "given"
    shutil.rmtree(folder, ignore_errors=True)
    make_given(folder)
    return folder


def _show(part: Part) -> None:
    print(f"{part.name}: {part.native_s:.1f} s here, {part.emulated_s:.1f} s emulated")  # noqa: T201 - a command
    for row in part.rows:
        mark = "ok " if row["met"] else "NO "
        print(f"  {mark} {row['what']}: {row['measured']:.3g} (at most {row['limit']:g})  {row['note']}")  # noqa: T201
    if part.failure:
        print(f"  NO  {part.failure}")  # noqa: T201


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--board", choices=sorted(BOARDS), default="pi4", help="which board to be")
    parser.add_argument("--code", choices=sorted(BOARDS), help="use kernels compiled for this one; --board without it")
    parser.add_argument("--only", action="append", choices=PARTS, help="a part of the suite; repeat")
    parser.add_argument("--limit-s", type=float, default=3600.0, help="time for each part under emulation")
    parser.add_argument("--cache", type=Path, help="where everything is kept; EDGEGUARD_EMULATE_CACHE says so too")
    parser.add_argument("--report", type=Path, help="write the comparisons as JSON, too")
    return parser.parse_args()


def main() -> int:
    """Run what was asked for; return the exit code: 0, 1 for a difference, 3 when something is missing."""
    options = _options()
    cache = Cache(options.cache.expanduser().resolve()) if options.cache else Cache.default()
    board = BOARDS[options.board]
    try:
        require_ready(cache, board)
        require_arm(cache, board)
        given = _given(cache)
        parts = []
        for name in PARTS:
            if name in (options.only or PARTS):
                parts.append(run_part(name, cache, board, BOARDS[options.code or board.name], options.limit_s, given))
                _show(parts[-1])
    except MissingError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return EXIT_MISSING
    if options.report:
        found = [
            {"part": p.name, "native_s": p.native_s, "emulated_s": p.emulated_s, "failure": p.failure, "rows": p.rows}
            for p in parts
        ]
        options.report.write_text(json.dumps({"board": board.title, "cpu": board.cpu, "parts": found}, indent=1))
    passed = all(part.passed for part in parts)
    print(f"{board.title}: {'as on this machine' if passed else 'NOT as on this machine, see above'}")  # noqa: T201
    return 0 if passed else EXIT_FINDING


if __name__ == "__main__":
    sys.exit(main())
