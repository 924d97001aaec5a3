"""`FrameSocket`: frames from a capture process of its own, over a Unix socket. docs/formats/frame-socket.md."""

from __future__ import annotations

import os
import select
import socket
import stat
import struct
from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from edgeguard.clock import NS_PER_S, Clock
from edgeguard.errors import SensorOpenError
from edgeguard.sensors.camera import ThreadedCamera
from edgeguard.sensors.camera_pipe import joined_drops
from edgeguard.sensors.frame_wire import FrameDecoder
from edgeguard.types import CAMERA, Image, LineStats, SourceInfo

READ_BYTES = 1 << 20
POLL_MS = 200
STALL_NS = 5 * NS_PER_S  # the slowest sender of one frame; a camera at 1 fps sends it at once
MAX_PATH_BYTES = 107  # sockaddr_un
REFUSED_PEER, SECOND_PEER, STALLED = "refused_peer", "second_peer", "stalled"
_CREDENTIALS = struct.Struct("3i")


class FrameSocket(ThreadedCamera):
    """Listens on a socket for one sender at a time; a sender that went away may come back.

    Args:
        path: of the socket, in a folder that only this user can write. fps: nominal.
        clock: the machine's monotonic one on a device, because frames bear its stamps.
        allowed_uids: users whose processes may send; this process's own when None.

    Raises (open):
        SensorOpenError: EG-N054 when the path is too long, its folder is open to others, it is taken by a living
            listener or by something that is no socket.
    """

    def __init__(
        self,
        path: Path,
        fps: float,
        clock: Clock,
        *,
        sensor: str = CAMERA,
        allowed_uids: Collection[int] | None = None,
    ) -> None:
        super().__init__(SourceInfo(sensor, Image, round(NS_PER_S / fps), str(path)), clock)
        self._path = path
        self._allowed = frozenset({os.getuid()} if allowed_uids is None else allowed_uids)
        self._decoder = FrameDecoder(sensor)
        self._refusals: Counter[str] = Counter()
        self._listener: socket.socket | None = None
        self._peer: socket.socket | None = None
        self._progress_ns = 0
        self._ready: deque[Image] = deque()

    @property
    def drops(self) -> Mapping[str, int]:
        """Frames not given and senders not admitted, by reason."""
        return joined_drops(joined_drops(super().drops, self._decoder.drops), dict(self._refusals))

    @property
    def line_stats(self) -> LineStats:
        return self._decoder.line_stats

    def _connect(self) -> None:
        if len(os.fsencode(self._path)) > MAX_PATH_BYTES:
            raise self._refused("has a path too long for a socket")
        self._require_private_folder()
        self._remove_stale()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            # The folder is ours alone, so nobody can connect before the mode is set.
            listener.bind(str(self._path))
            self._path.chmod(0o600)
            listener.listen(1)
        except OSError as error:
            listener.close()
            raise self._refused(f"cannot be made: {error.strerror}") from None
        self._listener = listener
        self._ready.clear()

    def _next(self) -> Image | str | None:
        if self._ready:
            return self._ready.popleft()
        poll = select.poll()
        for end in (self._listener, self._peer):
            if end is not None:
                poll.register(end, select.POLLIN)
        events = {descriptor for descriptor, _ in poll.poll(POLL_MS)}
        if self._peer is not None and self._peer.fileno() in events:
            self._receive(self._peer)
        elif self._peer is not None:
            self._drop_stalled()
        if self._listener is not None and self._listener.fileno() in events:
            self._accept(self._listener)
        return self._ready.popleft() if self._ready else None

    def _disconnect(self) -> None:
        self._end_peer()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            self._path.unlink(missing_ok=True)

    # ---- one peer -----------------------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        try:
            peer, _ = listener.accept()
        except OSError:
            return
        raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, uid, _ = _CREDENTIALS.unpack(raw)
        if uid not in self._allowed or self._peer is not None:
            self._refusals[REFUSED_PEER if uid not in self._allowed else SECOND_PEER] += 1
            peer.close()
            return
        peer.setblocking(False)
        self._peer = peer
        self._progress_ns = self._clock.now_ns()
        self._decoder.restart()

    def _receive(self, peer: socket.socket) -> None:
        try:
            data = peer.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end_peer()
            return
        now_ns = self._clock.now_ns()
        images: Sequence[Image] = self._decoder.feed(data, now_ns)
        if images or not self._decoder.in_frame:
            self._progress_ns = now_ns
        self._ready.extend(images)
        self._drop_stalled()

    def _drop_stalled(self) -> None:
        """A peer inside a frame that takes too long: it holds memory and the one place."""
        if self._decoder.in_frame and self._clock.now_ns() - self._progress_ns > STALL_NS:
            self._refusals[STALLED] += 1
            self._end_peer()
        elif not self._decoder.in_frame:
            self._progress_ns = self._clock.now_ns()

    def _end_peer(self) -> None:
        if self._peer is not None:
            self._peer.close()
            self._peer = None
        self._decoder.restart()

    # ---- the path -----------------------------------------------------------------------------------------------

    def _require_private_folder(self) -> None:
        try:
            folder = self._path.parent.stat()
        except OSError as error:
            raise self._refused(f"has no folder: {error.strerror}") from None
        if folder.st_uid != os.getuid() or folder.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise self._refused("lies in a folder that others can write")

    def _remove_stale(self) -> None:
        """Take away the socket of a process that is gone; anything else at this path is not ours to delete."""
        try:
            mode = self._path.lstat().st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            raise self._refused("is taken by something that is no socket")
        probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            probe.connect(str(self._path))
        except ConnectionRefusedError:
            self._path.unlink(missing_ok=True)
        except OSError:
            raise self._refused("is in use") from None
        else:
            raise self._refused("is in use")
        finally:
            probe.close()

    def _refused(self, what: str) -> SensorOpenError:
        return SensorOpenError(
            f"frame socket {self._path} of sensor {self._info.sensor} {what}", code="EG-N054",
            hint="use a folder of this user alone, such as /run/edgeguard",
        )  # fmt: skip
