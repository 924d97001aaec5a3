"""A private directory in memory: nowhere else, for nobody else, and gone with its process."""

from __future__ import annotations

import gc
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from edgeguard.errors import EnvironmentMissingError
from edgeguard.infer import memory_folder
from edgeguard.infer.memory_folder import DEFAULT_MEMORY_FOLDER, MemoryFolder, require_memory, wipe_abandoned

HOLD = """
import sys, time
from pathlib import Path
from edgeguard.infer.memory_folder import MemoryFolder
folder = MemoryFolder(sys.argv[1], allow_swap=True)
(folder.path / "engine").write_bytes(b"weights" * 1000)
print(folder.path, flush=True)
time.sleep(60)
"""


@pytest.fixture
def parent() -> Path:
    """A directory of this test's own on tmpfs."""
    path = DEFAULT_MEMORY_FOLDER / f"edgeguard-test-{os.getpid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    yield path
    path.rmdir()  # fails when a test leaves anything behind


def test_it_is_private_and_gone_at_the_end(parent: Path) -> None:
    """Mode 0700 whatever the umask says, empty at first, and nothing stays."""
    before = os.umask(0)
    try:
        with MemoryFolder(parent, allow_swap=True) as folder:
            assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
            assert list(folder.path.iterdir()) == []
            (folder.path / "deep" / "er").mkdir(parents=True)
            (folder.path / "deep" / "er" / "file").write_bytes(b"x")
            os.mkfifo(folder.path / "pipe")
            (folder.path / "link").symlink_to("/etc/hostname")
    finally:
        os.umask(before)
    assert not folder.path.exists()
    folder.close()


@pytest.mark.parametrize("where", ["/proc", "/sys", "/nonexistent", "/etc/hostname"])
def test_a_directory_on_disk_is_refused(where: str) -> None:
    """The kernel is asked what it is; a name says nothing."""
    with pytest.raises(EnvironmentMissingError) as caught:
        require_memory(Path(where), allow_swap=True)

    assert caught.value.code == "EG-E021"
    assert caught.value.hint


def test_a_link_to_memory_is_not_followed(parent: Path, tmp_path: Path) -> None:
    """Whoever can move the link could move it later."""
    (tmp_path / "link").symlink_to(parent)

    with pytest.raises(EnvironmentMissingError):
        MemoryFolder(tmp_path / "link", allow_swap=True)


def test_memory_that_may_be_swapped_out_is_refused(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless that is accepted, or the mount says noswap."""
    monkeypatch.setattr(memory_folder, "swap_is_on", lambda: True)

    with pytest.raises(EnvironmentMissingError) as caught:
        MemoryFolder(parent)

    assert caught.value.code == "EG-E022"
    assert "noswap" in caught.value.hint
    MemoryFolder(parent, allow_swap=True).close()
    monkeypatch.setattr(memory_folder, "swap_is_on", lambda: False)
    MemoryFolder(parent).close()


def test_what_a_killed_process_left_is_wiped_and_the_living_are_left_alone(parent: Path) -> None:
    """kill -9 runs no cleanup; the lock is gone with the process, and that is how the next one knows."""
    program = [sys.executable, "-c", HOLD, str(parent)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        left = Path(process.stdout.readline().strip())
        try:
            assert (left / "engine").stat().st_size == 7000
            assert wipe_abandoned(parent) == 0
            assert left.exists()
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert left.exists()

    with MemoryFolder(parent, allow_swap=True):
        assert not left.exists()


def test_two_of_one_process_live_side_by_side(parent: Path) -> None:
    """The second does not take the first for abandoned: the lock is the directory's, not the process's."""
    with MemoryFolder(parent, allow_swap=True) as first:
        (first.path / "engine").write_bytes(b"weights")
        with MemoryFolder(parent, allow_swap=True) as second:
            assert second.path != first.path
        assert (first.path / "engine").read_bytes() == b"weights"


def test_dropping_it_wipes_it_and_a_forked_child_does_not(parent: Path) -> None:
    """Also at the end of a process that forgot to close; only that of the process that made it."""
    folder = MemoryFolder(parent, allow_swap=True)
    path = folder.path
    (path / "engine").write_bytes(b"weights")
    child = os.fork()
    if child == 0:  # pragma: no cover  (another process)
        del folder
        gc.collect()
        os._exit(0)
    os.waitpid(child, 0)
    assert (path / "engine").read_bytes() == b"weights"

    del folder
    gc.collect()

    assert not path.exists()
