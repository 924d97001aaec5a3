"""python-tuf's client over our sources: one fetcher, one way to make an Updater, one refusal for what it raises."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tuf.api.exceptions import (
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    RepositoryError,
)
from tuf.ngclient.config import UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface
from tuf.ngclient.updater import Updater

from edgeguard.errors import EdgeGuardError, TrustError, UpdateError
from edgeguard.trust.store import MAX_ROOT_BYTES, MAX_ROOT_ROTATIONS, MAX_TARGETS_BYTES
from edgeguard.update.source import NotThereError, Source

METADATA = "metadata"
MAX_TIMESTAMP_BYTES = 16_384
MAX_SNAPSHOT_BYTES = 2_000_000


class SourceFetcher(FetcherInterface):
    """`tuf.ngclient`'s fetcher on a `Source`; addresses are paths in the repository."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def _fetch(self, url: str) -> Iterator[bytes]:
        # Sources may open when called or when first read; both end up here.
        try:
            yield from self._source.stream(url.lstrip("/"))
        except NotThereError as error:
            raise DownloadHTTPError(error.message, 404) from error
        except EdgeGuardError as error:
            raise DownloadError(error.message) from error


def make_updater(cache: Path, source: Source, *, root: bytes | None, base: str = METADATA) -> Updater:
    """Return a TUF client that keeps its metadata in `cache` and starts from `root`, or from the cache's root.

    The limits are those of the reference client; docs/formats/repository.md section 5.
    """
    config = UpdaterConfig(
        max_root_rotations=MAX_ROOT_ROTATIONS,
        root_max_length=MAX_ROOT_BYTES,
        timestamp_max_length=MAX_TIMESTAMP_BYTES,
        snapshot_max_length=MAX_SNAPSHOT_BYTES,
        targets_max_length=MAX_TARGETS_BYTES,
    )
    return Updater(str(cache), base, fetcher=SourceFetcher(source), config=config, bootstrap=root)


@contextmanager
def tuf_refusals() -> Iterator[None]:
    """Turn what the TUF client raises into ours.

    Raises:
        UpdateError: EG-R001 not reachable, EG-R002 a file is missing, EG-R004 the cache cannot be written.
        TrustError: EG-T050 refused, EG-T051 expired.
    """
    refusal: EdgeGuardError
    try:
        yield
        return
    except EdgeGuardError:
        raise
    except DownloadLengthMismatchError:
        refusal = UpdateError("a metadata file is larger than it may be", code="EG-R002", hint="publish again")
    except DownloadError as error:
        cause = error.__cause__
        refusal = UpdateError(
            cause.message if isinstance(cause, EdgeGuardError) else f"a download failed: {type(error).__name__}",
            code=cause.code if isinstance(cause, EdgeGuardError) else "EG-R001",
            hint="try again; what was fetched is kept",
        )
    except ExpiredMetadataError as error:
        refusal = expired(str(error).partition(" ")[0])
    except RepositoryError as error:
        refusal = TrustError(
            f"the repository is refused: {type(error).__name__}: {_line(error)}",
            code="EG-T050",
            hint="publish again from the fleet's folder; a repository that keeps being refused is under attack",
        )
    except OSError as error:
        reason = (error.strerror or "unknown").lower()
        refusal = UpdateError(f"cannot write the metadata cache: {reason}", code="EG-R004")
    except Exception as error:  # whatever the library raises on hostile metadata is one refusal
        refusal = TrustError(f"the repository is refused: {type(error).__name__}", code="EG-T050")
    raise refusal from None


def expired(role: str) -> TrustError:
    """Return the refusal of an index that is no longer fresh; what is installed is not touched by it."""
    return TrustError(
        f"the repository's {ascii(role)[1:40]} metadata has expired",
        code="EG-T051",
        hint="on the publishing host: edgeguard-provision publish FLEET REPOSITORY --refresh; check this clock as well",
    )


def _line(error: Exception) -> str:
    # The text can quote hostile metadata: one line, printable, short.
    return ascii(str(error))[1:200]
