"""Unpack an arm64 Python and its wheels into a folder: no root rights, no root file system, no binfmt.

    apt-get install qemu-user-static
    python hardware/emulate/prepare.py

A second call does nothing as long as the lists beside this file stay what they are. Debian's packages are checked by
apt against Debian's key, wheels by pip against the digests in wheels.txt.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from boards import BOARDS, EXIT_MISSING, HERE, PREPARE, Board, Cache, MissingError, tool

MIRROR = "http://deb.debian.org"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")  # glibc 2.36 runs them all
LIMIT_S = 1200  # of one download on a slow line


def prepare(cache: Cache) -> list[str]:
    """Make whatever is missing in `cache`; return what was done.

    Raises:
        MissingError: a tool or the network is missing.
    """
    cache.folder.mkdir(parents=True, exist_ok=True)
    done = []
    if _outdated(cache.debian, HERE / "packages.txt"):
        done.append(f"{_debian(cache)} Debian packages")
        _finish(cache.debian, HERE / "packages.txt")
    if _outdated(cache.site, HERE / "wheels.txt"):
        _wheels(cache)
        _finish(cache.site, HERE / "wheels.txt")
        done.append("wheels")
    for board in BOARDS.values():
        _board(cache, board)
    return done


def _stamp(folder: Path) -> Path:
    return folder.with_suffix(".made-of")


def _outdated(folder: Path, made_of: Path) -> bool:
    """Whether `folder` is not what `made_of` asks for; an unfinished one is removed."""
    stamp = _stamp(folder)
    if stamp.exists() and stamp.read_text() == _digest(made_of):
        return False
    stamp.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    return True


def _finish(folder: Path, made_of: Path) -> None:
    _stamp(folder).write_text(_digest(made_of))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _debian(cache: Cache) -> int:
    """Download and unpack the packages of packages.txt with all they depend on; return how many they are."""
    apt, dpkg_deb = tool("apt-get", "apt"), tool("dpkg-deb", "dpkg")
    if not KEYRING.exists():
        raise MissingError(f"{KEYRING} is missing; run: apt-get install debian-archive-keyring")
    state = cache.folder / "apt"
    shutil.rmtree(state, ignore_errors=True)
    for folder in ("lists/partial", "archives/partial"):
        (state / folder).mkdir(parents=True)
    (state / "status").touch()  # nothing is installed, so that everything needed is downloaded
    (state / "sources.list").write_text(_sources())
    wanted = [line for line in (HERE / "packages.txt").read_text().splitlines() if line and not line.startswith("#")]
    options = _apt_options(state)
    _call([apt, *options, "update"])
    _call([apt, *options, "--yes", "--download-only", "install", *wanted])
    packages = sorted((state / "archives").glob("*.deb"))
    cache.debian.mkdir()
    for package in packages:
        _call([dpkg_deb, "--extract", str(package), str(cache.debian)])
    (cache.folder / "debian.txt").write_text("".join(f"{package.name}\n" for package in packages))
    shutil.rmtree(state)
    return len(packages)


def _sources() -> str:
    suites = (("debian", "bookworm"), ("debian-security", "bookworm-security"))
    return "".join(f"deb [arch=arm64 signed-by={KEYRING}] {MIRROR}/{path} {suite} main\n" for path, suite in suites)


def _apt_options(state: Path) -> list[str]:
    """Keep apt in `state`, away from the machine's own packages and settings."""
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Install-Recommends": "false",
        "APT::Get::List-Cleanup": "false",
        "APT::Sandbox::User": "root",  # its own user may not read a folder in somebody's home
        "Acquire::Languages": "none",
        "Dir::Etc::sourcelist": str(state / "sources.list"),
        "Dir::Etc::sourceparts": os.devnull,
        "Dir::Etc::preferencesparts": os.devnull,
        "Dir::State::lists": str(state / "lists"),
        "Dir::State::status": str(state / "status"),
        "Dir::Cache": str(state),
        "Dir::Cache::archives": str(state / "archives"),
        "Debug::NoLocking": "true",
    }
    return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]


def _wheels(cache: Cache) -> None:
    """Unpack the wheels of wheels.txt; nothing of them is run."""
    platforms = [word for name in PLATFORMS for word in ("--platform", f"{name}_aarch64")]
    _call([
        sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", str(cache.site),
        *platforms, "--python-version", "3.11", "--implementation", "cp", "--only-binary=:all:", "--no-deps",
        "--no-compile", "--require-hashes", "-r", str(HERE / "wheels.txt"),
    ])  # fmt: skip


def _board(cache: Cache, board: Board) -> None:
    """Lay out what a board's programs see: Debian's files, and what the kernel would say of the processor."""
    root = cache.root(board)
    root.mkdir(parents=True, exist_ok=True)
    for entry in cache.debian.iterdir():
        link = root / entry.name
        if not link.is_symlink():
            link.symlink_to(Path("..", "..", cache.debian.name, entry.name))
    processors = root / "sys" / "devices" / "system" / "cpu"
    for folder in (root / "proc", processors):
        folder.mkdir(parents=True, exist_ok=True)
    (root / "proc" / "cpuinfo").write_text(board.cpuinfo())
    for name in ("possible", "present", "online"):
        (processors / name).write_text("0-3\n")


def _call(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=LIMIT_S)  # noqa: S603 - built here
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        said = str(error.stderr or "").strip().splitlines()[-1:] or [type(error).__name__]
        raise MissingError(f"{Path(command[0]).name} failed: {said[0]}; with a network, run: {PREPARE}") from None


def main() -> int:
    """Read the options; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cache", type=Path, help="where everything is kept; EDGEGUARD_EMULATE_CACHE says so too")
    folder = parser.parse_args().cache
    cache = Cache(folder.expanduser().resolve()) if folder else Cache.default()
    try:
        done = prepare(cache)
    except MissingError as error:
        print(error, file=sys.stderr)  # noqa: T201 - a command
        return EXIT_MISSING
    print(f"{cache.folder}: {', '.join(done) or 'nothing to do'}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
