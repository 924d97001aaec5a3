"""The executable for the public conformance suite, driven as that suite drives it, over a real web server."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

CLIENT = Path(__file__).parents[1] / "conformance" / "tuf_client"


class Quiet(SimpleHTTPRequestHandler):
    """A static server without ranges, as python's own is; it says nothing."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(site) -> Iterator[str]:
    """Serve the repository on a free port."""
    site.publish()
    web = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site.repository)))
    thread = threading.Thread(target=web.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{web.server_address[1]}"
    web.shutdown()
    web.server_close()
    thread.join()


def client(folder: Path, *arguments: str) -> int:
    command = [sys.executable, str(CLIENT), "--metadata-dir", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode


def test_init_refresh_and_download_as_the_conformance_suite_calls_them(site, server, tmp_path):
    """Exit 0, unversioned names in the metadata folder, the target in the target folder under its quoted name."""
    metadata, targets = tmp_path / "metadata", tmp_path / "targets"
    targets.mkdir()
    assert client(metadata, "init", str(site.pinned / "1.root.json")) == 0
    assert client(metadata, "--metadata-url", f"{server}/metadata", "refresh") == 0
    assert {"root.json", "timestamp.json", "snapshot.json", "targets.json"} <= {p.name for p in metadata.iterdir()}
    target = (
        "--metadata-url", f"{server}/metadata", "--target-name", "revocation/list.json",
        "--target-base-url", f"{server}/targets", "--target-dir", str(targets),
    )  # fmt: skip
    assert client(metadata, *target, "download") == 0
    listed = (site.fleet.trust_folder / "revocation-list.json").read_bytes()
    assert (targets / "revocation%2Flist.json").read_bytes() == listed


def test_a_broken_repository_gives_exit_one(site, server, tmp_path):
    """A damaged timestamp, and no repository at all."""
    metadata = tmp_path / "metadata"
    assert client(metadata, "init", str(site.pinned / "1.root.json")) == 0
    (site.repository / "metadata/timestamp.json").write_bytes(b"{}")
    assert client(metadata, "--metadata-url", f"{server}/metadata", "refresh") == 1
    shutil.rmtree(site.repository / "metadata")
    assert client(metadata, "--metadata-url", f"{server}/metadata", "refresh") == 1


def test_an_update_over_a_web_server_without_ranges_works_too(site, server):
    """The whole way over http; python's server ignores Range, so what comes before a span is read and dropped."""
    from edgeguard.update.source import HttpSource

    site.publish(site.pack("2", floats=1_500_000, counter=(0, 2)))
    assert site.upgrade(HttpSource(server)).counter == (0, 2)
