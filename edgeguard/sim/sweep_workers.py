"""Where the runs of a sweep happen: here, in processes of this machine, or on a dask cluster. All give equal rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from importlib import import_module
from multiprocessing import get_context
from typing import Any, Final, TypeVar

from edgeguard.errors import EdgeGuardError, EnvironmentMissingError, ScenarioError

MAX_PROCESSES: Final = 64
CLUSTER_TIMEOUT: Final = "10s"  # to reach the scheduler: a wrong address must not look like a long run
Job = tuple[Any, ...]
Result = TypeVar("Result")


def run_jobs(
    work: Callable[..., Result], jobs: Sequence[Job], *, processes: int = 1, scheduler: str = ""
) -> Iterator[Result]:
    """Yield the results of `work(*job)` as they come, in no promised order. What fails ends all the others.

    Args:
        scheduler: address of a dask scheduler, such as tcp://host:8786; its workers need the same edgeguard.

    Raises:
        ScenarioError: EG-X048, a worker died. EnvironmentMissingError: EG-E058 without distributed, EG-E059 when the
            scheduler does not answer or its workers cannot run this version.
    """
    if scheduler:
        yield from _on_cluster(work, jobs, scheduler)
    elif processes == 1 or len(jobs) < 2:
        yield from (work(*job) for job in jobs)
    else:
        yield from _in_processes(work, jobs, min(processes, len(jobs), MAX_PROCESSES))


def _in_processes(work: Callable[..., Result], jobs: Sequence[Job], processes: int) -> Iterator[Result]:
    # A fresh interpreter per worker: forking one that holds threads and open terminals is not safe.
    pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"))
    try:
        left: set[Future[Result]] = {pool.submit(work, *job) for job in jobs}
        while left:
            done, left = wait(left, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    except BrokenProcessPool:
        raise ScenarioError(
            "a worker of the sweep died, perhaps for lack of memory", code="EG-X048",
            hint="run it again with fewer --processes: rows that are done are kept",
        ) from None  # fmt: skip
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _on_cluster(work: Callable[..., Result], jobs: Sequence[Job], scheduler: str) -> Iterator[Result]:
    try:
        distributed: Any = import_module("distributed")
    except ImportError:
        raise EnvironmentMissingError(
            "a cluster needs the package distributed", code="EG-E058", hint='pip install "edgeguard[sweep]"'
        ) from None
    try:
        client = distributed.Client(scheduler, timeout=CLUSTER_TIMEOUT, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise EnvironmentMissingError(
            f"no dask scheduler answers at {scheduler}: {type(error).__name__}", code="EG-E059",
            hint="start one: dask scheduler, and dask worker ADDRESS on each machine",
        ) from None  # fmt: skip
    futures: list[Any] = []
    try:
        # Impure: a row must be of this run, not of one that the scheduler remembers from another version.
        futures = [client.submit(work, *job, pure=False) for job in jobs]
        # The loop of this client: another one may be the process's default, or none.
        for future in distributed.as_completed(futures, loop=client.loop):
            yield future.result()
            future.release()
    except EdgeGuardError:
        raise
    except Exception as error:  # a worker's own exception arrives as whatever it was there
        raise EnvironmentMissingError(
            f"the cluster could not run this sweep: {type(error).__name__}", code="EG-E059",
            hint="its workers need this version of edgeguard; rows that are done are kept",
        ) from error  # fmt: skip
    finally:
        client.cancel(futures)
        client.close()
