"""Run every benchmark and print one table each, with a yardstick of this machine in this run."""

from __future__ import annotations

import sys

from benchmarks import kernels, models, start
from benchmarks.timing import yardstick_s

PARTS = {"start": start.main, "models": models.main, "kernels": kernels.main}


def main() -> None:
    wanted = sys.argv[1:] or list(PARTS)
    print(f"yardstick: SHA-256 of 64 MiB on one thread takes {yardstick_s() * 1e3:.1f} ms here (best of 5)\n")
    for name in wanted:
        print(f"== {name}")
        PARTS[name]()
        print()


if __name__ == "__main__":
    main()
