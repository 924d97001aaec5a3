"""How long the first things take: importing the package, showing help."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.timing import best_s


def main() -> None:
    bare = best_s(lambda: _python("pass"))
    for what, code in (
        ("import edgeguard", "import edgeguard"),
        ("edgeguard --help", "from edgeguard.cli.main import cli, run; run(cli, 'edgeguard', ['--help'])"),
        ("open_model and its imports", "from edgeguard.bundle.model import open_model"),
    ):
        print(f"{what:28s} {(best_s(lambda code=code: _python(code)) - bare) * 1e3:7.1f} ms over a bare interpreter")


def _python(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
