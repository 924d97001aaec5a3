"""Runs other scanners over a folder, one process per file, and prints their exit codes as JSON.

Executed by the Python of an environment that has them (they are not dependencies of this project):

    python scan_peers.py FOLDER

Imports nothing of this project.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import sys
import time
from importlib import metadata
from pathlib import Path

# Package, entry point, arguments before the file. The exit codes are their documented ones.
PEERS = (
    ("picklescan", "picklescan.cli", ["picklescan", "-p"]),
    ("modelscan", "modelscan.cli", ["modelscan", "scan", "-p"]),
    ("fickling", "fickling.cli", ["fickling", "--check-safety"]),
    ("modelaudit", "modelaudit.cli", ["modelaudit", "scan"]),
)
CRASHED = 99


def exit_code(module: str, arguments: list[str], seconds: int = 60) -> int:
    """Run a command line in a child of its own; CRASHED when it ends by a signal or an exception of its own."""
    child = os.fork()
    if child == 0:
        os._exit(_call(module, arguments))
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else CRASHED
        time.sleep(0.005)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return CRASHED


def _call(module: str, arguments: list[str]) -> int:
    quiet = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(quiet, descriptor)
    sys.argv = arguments
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return importlib.import_module(module).main() or 0
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        return CRASHED


def main() -> None:
    os.environ.update(PROMPTFOO_DISABLE_TELEMETRY="1", NO_ANALYTICS="1", DO_NOT_TRACK="1")
    files = sorted(path for path in Path(sys.argv[1]).rglob("*") if path.is_file())
    found: dict[str, dict[str, int]] = {}
    for package, module, arguments in PEERS:
        try:
            importlib.import_module(module)
        except ImportError:
            continue
        codes = {str(path): exit_code(module, [*arguments, str(path)]) for path in files}
        found[f"{package} {metadata.version(package)}"] = codes
    print(json.dumps(found))


if __name__ == "__main__":
    main()
