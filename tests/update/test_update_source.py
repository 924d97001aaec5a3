"""Sources: addresses, links, ranges, redirects, slow and silent servers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgeguard.errors import EdgeGuardError, UpdateError
from edgeguard.update.source import FolderSource, HttpSource, NotThereError, open_source, read_all

CONTENT = bytes(range(256)) * 1000


@contextmanager
def serving(handle) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            handle(self)

        def log_message(self, *_: object) -> None:
            pass

    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.daemon_threads = True
    thread = threading.Thread(target=web.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{web.server_address[1]}"
    finally:
        web.shutdown()
        web.server_close()
        thread.join()


def send(request: BaseHTTPRequestHandler, status: int, content: bytes = b"", **headers: str) -> None:
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    request.wfile.write(content)


class Ticking:
    """A clock that moves on by two minutes each time somebody looks."""

    def __init__(self) -> None:
        self._now_ns = 0

    def now_ns(self) -> int:
        self._now_ns += 120 * 10**9
        return self._now_ns

    def wall_ns(self) -> int:
        return 0

    def wait_until_ns(self, stamp_ns: int) -> None:
        self._now_ns = stamp_ns


def test_a_range_is_asked_for_and_what_the_server_makes_of_it_is_checked():
    """206 with the right start, 206 with another, and 200 with everything."""

    def ranges(request: BaseHTTPRequestHandler) -> None:
        first, last = request.headers["Range"].removeprefix("bytes=").split("-")
        piece = CONTENT[int(first) : int(last) + 1]
        shown = first if request.path == "/right" else "7"
        send(request, 206, piece, Content_Range=f"bytes {shown}-{last}/{len(CONTENT)}")

    with serving(ranges) as base:
        assert b"".join(HttpSource(base).stream("right", 100, 50)) == CONTENT[100:150]
        with pytest.raises(UpdateError) as error:
            HttpSource(base).stream("wrong", 100, 50)
        assert error.value.code == "EG-R001"
    with serving(lambda request: send(request, 200, CONTENT)) as base:
        assert b"".join(HttpSource(base).stream("all", 70_000, 50)) == CONTENT[70_000:70_050]


def test_redirects_are_few_and_end():
    """Three are followed, a loop is not; other schemes never are."""

    def hops(request: BaseHTTPRequestHandler) -> None:
        number = int(request.path.strip("/"))
        if number == 0:
            send(request, 200, CONTENT)
        else:
            send(request, 302, Location=f"/{number - 1}")

    with serving(hops) as base:
        assert read_all(HttpSource(base), "3", len(CONTENT)) == CONTENT
        with pytest.raises(UpdateError):
            read_all(HttpSource(base), "9", len(CONTENT))
    for target in ("file:///etc/hostname", "ftp://127.0.0.1/x"):
        with (
            serving(lambda request, target=target: send(request, 302, Location=target)) as base,
            pytest.raises(UpdateError),
        ):
            read_all(HttpSource(base), "x", 100)


def test_a_slow_server_is_left_and_a_silent_one_too():
    """Under the slowest rate after the first minute; no byte within the silence."""
    with (
        serving(lambda request: send(request, 200, b"x" * 2000)) as base,
        pytest.raises(UpdateError, match="too slow"),
    ):
        read_all(HttpSource(base, Ticking()), "x", 10_000)
    hold = threading.Event()

    def silent(request: BaseHTTPRequestHandler) -> None:
        hold.wait(5)

    with serving(silent) as base:
        with pytest.raises(UpdateError, match="no answer in time"):
            read_all(HttpSource(base, silence_s=0.2), "x", 10)
        hold.set()


def test_answers_other_than_the_file_are_refused():
    """Missing, failing, compressed, larger than allowed."""
    for status, code in ((404, "EG-R002"), (403, "EG-R002"), (500, "EG-R001"), (416, "EG-R002")):
        with (
            serving(lambda request, status=status: send(request, status)) as base,
            pytest.raises(UpdateError) as error,
        ):
            read_all(HttpSource(base), "x", 10)
        assert error.value.code == code
    with (
        serving(lambda request: send(request, 200, b"xx", Content_Encoding="gzip")) as base,
        pytest.raises(UpdateError),
    ):
        read_all(HttpSource(base), "x", 10)
    with (
        serving(lambda request: send(request, 200, CONTENT)) as base,
        pytest.raises(UpdateError) as error,
    ):
        read_all(HttpSource(base), "x", len(CONTENT) - 1)
    assert error.value.code == "EG-R002"


def test_a_stick_is_read_without_following_links_or_leaving_it(tmp_path):
    """Links in any place, parents, absolute paths, pipes."""
    import os

    stick = tmp_path / "stick"
    (stick / "a").mkdir(parents=True)
    (stick / "a/file").write_bytes(CONTENT)
    (tmp_path / "secret").write_bytes(b"s")
    (stick / "link").symlink_to(tmp_path / "secret")
    (stick / "linked").symlink_to(tmp_path)
    os.mkfifo(stick / "pipe")
    source = open_source(f"file://{stick}")
    assert isinstance(source, FolderSource)
    assert read_all(source, "a/file", len(CONTENT)) == CONTENT
    assert b"".join(source.stream("a/file", 5, 7)) == CONTENT[5:12]
    for path in ("link", "linked/secret", "../secret", "a/../../secret", "/etc/hostname", "", "pipe", "a"):
        with pytest.raises(UpdateError):
            read_all(source, path, 100)
    with pytest.raises(NotThereError):
        read_all(source, "a/none", 100)


@given(st.text(max_size=20) | st.builds("http://{}".format, st.text("[]:@/ab1", max_size=10)))
@example("http://[")
@example("http://a:b/")
@example("file://elsewhere/x")
@example("ftp://a/")
def test_any_address_is_a_source_or_a_refusal(address):
    """One refusal for all that cannot be used, and no other exception for any text."""
    codes = []
    try:
        open_source(address)
    except EdgeGuardError as error:
        codes = [error.code]
    assert codes in ([], ["EG-R003"])


@pytest.mark.parametrize("address", ["", "http://[", "http://a:b/", "file://elsewhere/x", "ftp://a/", "https:///x"])
def test_an_address_that_cannot_be_used_is_refused(address):
    """By code."""
    with pytest.raises(UpdateError) as error:
        open_source(address)
    assert error.value.code == "EG-R003"
