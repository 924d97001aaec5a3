"""Where a repository's files come from: a web server or a folder (a stick), behind one protocol.

Nothing here is believed: sizes are bounded, time is bounded, and whoever calls checks what was read.
docs/formats/repository.md section 5.
"""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final, Protocol

from edgeguard.clock import NS_PER_S, Clock, SystemClock
from edgeguard.errors import UpdateError
from edgeguard.keys.regular_file import OPEN_FLAGS, open_regular

PIECE_BYTES: Final = 64 * 1024
SILENCE_S: Final = 30.0  # a server that says nothing for so long is gone
# Under this a transfer is an attack or a broken link; after it, GSM at its worst still delivers.
SLOWEST_BYTES_PER_S: Final = 1024
PATIENCE_S: Final = 60  # before the slowest rate is asked for
MAX_REDIRECTS: Final = 3
_SCHEMES: Final = ("https", "http")
_HINT: Final = "is the repository reachable, and is the address the folder that edgeguard-provision publish wrote?"


class NotThereError(UpdateError):
    """The repository has no such file; for TUF that can be an answer, elsewhere it is a refusal."""

    default_code = "EG-R002"


class Source(Protocol):
    """Files by their path relative to the repository, with `/`."""

    def stream(self, path: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Yield the file's bytes from `start` on, at most `length`.

        Raises:
            NotThereError: EG-R002. UpdateError: EG-R001, also while iterating.
        """
        ...


def open_source(address: str, clock: Clock | None = None) -> Source:
    """Return the source for an address: `https://`, `http://`, `file://`, or a folder's path.

    Raises:
        UpdateError: EG-R003.
    """
    try:
        parts = urllib.parse.urlsplit(address)
        host = parts.hostname
        known = parts.port is None or parts.port >= 0
    except ValueError:  # brackets that do not close, ports that are none
        parts, host, known = urllib.parse.urlsplit(""), None, False
    if parts.scheme in _SCHEMES and host and known:
        return HttpSource(address, clock)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return FolderSource(urllib.parse.unquote(parts.path))
    if not parts.scheme and known and address:
        return FolderSource(address)
    raise UpdateError(
        f"cannot use the address {address!a}", code="EG-R003", hint="give https://..., http://..., file://... or a path"
    )


def read_all(source: Source, path: str, limit: int) -> bytes:
    """Return a whole file of at most `limit` bytes.

    Raises:
        UpdateError: EG-R001, EG-R002 missing or larger.
    """
    parts: list[bytes] = []
    size = 0
    for part in source.stream(path, 0, limit + 1):
        parts.append(part)
        size += len(part)
        if size > limit:
            raise UpdateError(f"{path} is larger than {limit} bytes", code="EG-R002", hint=_HINT)
    return b"".join(parts)


class FolderSource:
    """A folder, such as a mounted stick; no link in it is followed."""

    def __init__(self, folder: Path | str) -> None:
        self._folder = Path(folder)

    def stream(self, path: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        file = self._open(path)
        return _pieces_of_file(file, path, start, length)

    def _open(self, path: str) -> IO[bytes]:
        parts = PurePosixPath(path).parts
        if not parts or path.startswith("/") or any(part in ("..", ".") for part in path.split("/")):
            raise UpdateError(f"{path!a} is no path in a repository", code="EG-R003")
        reason = ""
        holder = -1
        try:
            holder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            for part in parts[:-1]:
                below = os.open(part, OPEN_FLAGS | os.O_DIRECTORY, dir_fd=holder)
                os.close(holder)
                holder = below
            return open_regular(parts[-1], dir_fd=holder)
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            reason = (getattr(error, "strerror", None) or "not a path").lower()
        finally:
            if holder >= 0:
                os.close(holder)
        if reason:
            raise UpdateError(f"cannot read {path}: {reason}", code="EG-R001", hint=_HINT)
        raise NotThereError(f"the repository has no {path}", hint=_HINT)


class HttpSource:
    """A web server. Only http and https, bounded redirects, never from https to http."""

    def __init__(self, base: str, clock: Clock | None = None, *, silence_s: float = SILENCE_S) -> None:
        self._base = base.rstrip("/")
        self._clock = clock if clock is not None else SystemClock()
        self._silence_s = silence_s
        self._opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.HTTPDefaultErrorHandler(),
            _BoundedRedirects(),
        ):
            self._opener.add_handler(handler)

    def stream(self, path: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        headers = {"Accept-Encoding": "identity", "User-Agent": "edgeguard"}
        if start or length is not None:
            last = "" if length is None else str(start + length - 1)
            headers["Range"] = f"bytes={start}-{last}"
        request = urllib.request.Request(f"{self._base}/{path.lstrip('/')}", headers=headers)  # noqa: S310 - see open_source
        response = self._open(request, path)
        # A server that knows no ranges sends everything: what comes before is read and dropped.
        skip = start if response.status != http.client.PARTIAL_CONTENT else 0
        if response.status == http.client.PARTIAL_CONTENT and not _starts_at(response, start):
            response.close()
            raise UpdateError(f"the server sent another part of {path}", code="EG-R001", hint=_HINT)
        return self._pieces(response, path, skip, length)

    def _open(self, request: urllib.request.Request, path: str) -> Any:
        reason = ""
        try:
            response = self._opener.open(request, timeout=self._silence_s)
            if response.headers.get("Content-Encoding", "identity") == "identity":
                return response
            response.close()
            reason = "the server changes the content"
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in (http.client.NOT_FOUND, http.client.FORBIDDEN, http.client.GONE):
                raise NotThereError(f"the repository has no {path}", hint=_HINT) from None
            if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise UpdateError(f"{path} is shorter than it must be", code="EG-R002", hint=_HINT) from None
            reason = f"the server answers {error.code}"
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = _reason(error)
        raise UpdateError(f"cannot fetch {path}: {reason}", code="EG-R001", hint=_HINT)

    def _pieces(self, response: Any, path: str, skip: int, length: int | None) -> Iterator[bytes]:
        began_ns = self._clock.now_ns()
        got = 0
        left = length
        reason = ""
        try:
            while left is None or left > 0:
                piece = response.read1(PIECE_BYTES)
                if not piece:
                    return
                got += len(piece)
                elapsed_s = (self._clock.now_ns() - began_ns) / NS_PER_S
                if elapsed_s > PATIENCE_S and got < SLOWEST_BYTES_PER_S * elapsed_s:
                    reason = "the server is too slow"
                    break
                dropped = min(skip, len(piece))
                skip -= dropped
                piece = piece[dropped:]
                if left is not None:
                    piece = piece[:left]
                    left -= len(piece)
                if piece:
                    yield piece
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = _reason(error)
        finally:
            response.close()
        if reason:
            raise UpdateError(f"cannot fetch {path}: {reason}", code="EG-R001", hint=_HINT)


class _BoundedRedirects(urllib.request.HTTPRedirectHandler):
    max_redirections = MAX_REDIRECTS
    max_repeats = 1

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        weaker = req.type == "https" and urllib.parse.urlsplit(newurl).scheme != "https"
        if weaker or urllib.parse.urlsplit(newurl).scheme not in _SCHEMES:
            raise urllib.error.URLError("it points to a weaker address")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _pieces_of_file(file: IO[bytes], path: str, start: int, length: int | None) -> Iterator[bytes]:
    left = length
    reason = ""
    with file:
        try:
            file.seek(start)
            while left is None or left > 0:
                piece = file.read(PIECE_BYTES if left is None else min(PIECE_BYTES, left))
                if not piece:
                    return
                if left is not None:
                    left -= len(piece)
                yield piece
        except OSError as error:
            reason = _reason(error)
    if reason:
        raise UpdateError(f"cannot read {path}: {reason}", code="EG-R001", hint=_HINT)


def _starts_at(response: Any, start: int) -> bool:
    content_range: str = response.headers.get("Content-Range", "")
    return content_range.startswith(f"bytes {start}-")


def _reason(error: BaseException) -> str:
    inner = getattr(error, "reason", None)
    if isinstance(inner, BaseException):
        return _reason(inner)
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return (str(inner or "") or getattr(error, "strerror", None) or type(error).__name__).lower()
