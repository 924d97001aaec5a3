"""The boards that are emulated, where everything is kept, and how a Python program runs as on such a board."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
QEMU = "qemu-aarch64-static"
PREPARE = "python hardware/emulate/prepare.py"

# Exit codes as of both commands of the product; docs/cli.md lists them.
EXIT_FINDING, EXIT_USAGE, EXIT_MISSING = 1, 2, 3

_ARM_CPUINFO = """processor\t: {number}
BogoMIPS\t: 108.00
Features\t: {features}
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: {variant}
CPU part\t: {part}
CPU revision\t: {revision}
"""
_CORES = 4  # of both boards
START_LIMIT_S = 300.0  # of an emulated Python on a machine that has much else to do


class MissingError(Exception):
    """Something that the emulation needs is not there; the message ends with the next command."""


@dataclass(frozen=True, slots=True)
class Board:
    """One board as programs see it.

    cpu: qemu's name of its core, and LLVM's. features, part, variant, revision: of /proc/cpuinfo, whose reading decides
    what LLVM compiles for and what onnxruntime believes to run on. llvm_features: what numba makes of them; part of the
    key of its cache. environment: what makes a library leave out an instruction that the core has and the board lacks.
    """

    name: str
    title: str
    cpu: str
    part: str
    variant: str
    revision: int
    features: str
    llvm_features: str
    environment: dict[str, str] = field(default_factory=dict)

    def cpuinfo(self) -> str:
        """Return the text of /proc/cpuinfo."""
        return "\n".join(
            _ARM_CPUINFO.format(
                number=core, features=self.features, variant=self.variant, part=self.part, revision=self.revision
            )
            for core in range(_CORES)
        )


# Broadcom left the cryptographic instructions out of the Pi 4's cores; qemu's cortex-a72 always has them. OpenSSL is
# told by its own variable (bit 0: NEON), numba by the features; nothing else that runs here uses them.
BOARDS = {
    "pi4": Board(
        "pi4",
        "Raspberry Pi 4",
        "cortex-a72",
        "0xd08",
        "0x0",
        3,
        "fp asimd evtstrm crc32 cpuid",
        "-aes,+crc,+fp-armv8,+neon,-rand,-sha2,-sve",
        {"OPENSSL_armcap": "1"},
    ),
    "pi5": Board(
        "pi5",
        "Raspberry Pi 5",
        "cortex-a76",
        "0xd0b",
        "0x4",
        1,
        "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
        "",
    ),
}


@dataclass(frozen=True, slots=True)
class Cache:
    """The folder outside the repository in which everything lies that can be made again."""

    folder: Path

    @classmethod
    def default(cls) -> Cache:
        """`EDGEGUARD_EMULATE_CACHE`, or a folder of the user's cache."""
        named = os.environ.get("EDGEGUARD_EMULATE_CACHE", "")
        base = os.environ.get("XDG_CACHE_HOME", "") or "~/.cache"
        return cls(Path(named or f"{base}/edgeguard/emulate").expanduser().resolve())

    @property
    def debian(self) -> Path:
        """Unpacked Debian packages."""
        return self.folder / "debian"

    @property
    def site(self) -> Path:
        """Unpacked wheels."""
        return self.folder / "site"

    @property
    def numba(self) -> Path:
        """Machine code of the kernels, for every board that has run."""
        return self.folder / "numba"

    def root(self, board: Board) -> Path:
        """What the emulated program sees before the machine's own files."""
        return self.folder / "boards" / board.name


def tool(name: str, package: str) -> str:
    """Return where a program is.

    Raises:
        MissingError: it is not installed.
    """
    found = shutil.which(name)
    if found is None:
        raise MissingError(f"{name} is not installed; run: apt-get install {package}")
    return found


def require_ready(cache: Cache, board: Board) -> None:
    """Look whether everything is in place.

    Raises:
        MissingError: something is not.
    """
    tool(QEMU, "qemu-user-static")
    for needed in (cache.root(board) / "usr" / "bin" / "python3.11", cache.site / "numpy"):
        if not needed.exists():
            raise MissingError(f"{needed} is missing; run: {PREPARE} --cache {cache.folder}")


def require_arm(cache: Cache, board: Board) -> None:
    """Start Python once as on `board` and ask it where it runs; a comparison with oneself would prove nothing.

    Raises:
        MissingError: it does not start, or is no arm64.
    """
    asked = run(emulated(cache, board, ["-c", "import platform; print(platform.machine())"]), START_LIMIT_S)
    if asked.stdout.strip() != "aarch64":
        said = (asked.stdout + asked.stderr).strip()[-200:]
        raise MissingError(f"no arm64 Python starts ({said}); empty {cache.folder} and run: {PREPARE}")


def emulated(cache: Cache, board: Board, arguments: list[str], code_of: Board | None = None) -> list[str]:
    """Return the command that runs Python as on `board`.

    code_of: use machine code compiled for this older board instead of compiling for `board`.
    """
    root = cache.root(board)
    told = {
        "HOME": str(cache.folder),
        "PYTHONPATH": f"{cache.site}{os.pathsep}{REPOSITORY}",
        "PYTHONPYCACHEPREFIX": str(cache.folder / "bytecode"),
        "PYTHONHASHSEED": "0",
        "NUMBA_CACHE_DIR": str(cache.numba),
        **board.environment,
    }
    if code_of is not None and code_of.name != board.name:
        told |= {"NUMBA_CPU_NAME": code_of.cpu, "NUMBA_CPU_FEATURES": code_of.llvm_features}
    # qemu's own -E takes a comma, of which LLVM's features have many, as the end of a variable.
    words = [tool("env", "coreutils"), *(f"{name}={value}" for name, value in told.items())]
    qemu = [tool(QEMU, "qemu-user-static"), "-cpu", board.cpu, "-L", str(root)]
    return [*words, *qemu, str(root / "usr" / "bin" / "python3.11"), *arguments]


def native(arguments: list[str]) -> list[str]:
    """Return the command that runs Python as it is on this machine."""
    return [sys.executable, *arguments]


def run(command: list[str], limit_s: float) -> subprocess.CompletedProcess[str]:
    """Run a command, politely and for a bounded time; what it prints is kept.

    Raises:
        subprocess.TimeoutExpired: it took longer than `limit_s`; it has been killed.
    """
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(  # noqa: S603 - built above
        ["nice", "-n", "10", *command],  # noqa: S607 - wherever it is
        capture_output=True,
        text=True,
        check=False,
        timeout=limit_s,
        env=environment,
        cwd=REPOSITORY,
    )
