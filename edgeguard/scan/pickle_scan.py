"""Scan of pickles: one, several in a row, with joblib's arrays between the opcodes, or inside one another."""

from __future__ import annotations

from contextlib import suppress
from typing import Final, NamedTuple

from edgeguard.scan.content import Content, Context
from edgeguard.scan.joblib_arrays import inline_array
from edgeguard.scan.pickle_machine import InlineReader, OutOfStepsError, PickleWalker
from edgeguard.scan.pickle_ops import MAX_KEPT_BYTES, Span
from edgeguard.scan.pickle_values import Special

PROBE_STEPS: Final = 20_000  # enough to tell a pickle without a magic number from other bytes
MAX_NESTED: Final = 1000  # bytes constants scanned as files of their own, per pickle
WALK_COST: Final = 20  # steps that starting a walk is worth; else millions of pickles of two bytes would be free
_HIGHEST_PROTOCOL: Final = 5
_PADDING: Final = b"\0\n\r "
_NESTED_MAGIC: Final = (b"PK\x03\x04", b"\x93NUMPY", b"\x1f\x8b")


def scan_pickle(content: Content, context: Context) -> str:
    """Scan all pickles that `content` is made of."""
    walker = walk_pickle(content, 0, context, inline=inline_array)
    _check_pids(walker, content, context)
    # The same bytes read by a loader that knows nothing of joblib must not be a program of their own.
    if walker.inline_reads:
        _read_without_joblib(content, context)
    kind = "joblib pickle" if walker.inline_reads else "pickle"
    end = walker.end
    while walker.complete and end < len(content.data):
        if not bytes(content.data[end : end + 64]).strip(_PADDING) and not _any_left(content.data, end):
            break
        if not probe(content.data, end, context).found:
            left = len(content.data) - end
            context.report("EG-SCAN-106", content, f"{left} bytes follow the end of the pickle", offset=end)
            break
        walker = walk_pickle(content, end, context, inline=inline_array)
        _check_pids(walker, content, context)
        end = walker.end
    return kind


def walk_pickle(
    content: Content, start: int, context: Context, *, inline: InlineReader | None = None, own_names: str = ""
) -> PickleWalker:
    """Walk one pickle of `content` from `start`, report what it does, and scan the pickles in its constants.

    `own_names` begins the names that the container itself defines and that another finding speaks for.
    """
    walker = PickleWalker(content.data, start, context.steps_left, inline)
    try:
        walker.walk()
    except OutOfStepsError:
        context.report("EG-SCAN-107", content, "followed to the end of the budget and no further", offset=walker.end)
    _charge(walker, context)
    for note in walker.notes:
        if own_names and note.rule_id == "EG-SCAN-102" and note.message.startswith(f"imports '{own_names}"):
            continue
        context.report(note.rule_id, content, note.message, offset=note.offset, verdict=note.verdict)
    if walker.break_ is not None:
        context.report("EG-SCAN-105", content, walker.break_.what, offset=walker.break_.offset)
    if walker.underflow:
        context.report("EG-SCAN-105", content, "takes more from the stack than is on it", offset=start)
    _scan_constants(walker, content, context)
    return walker


class Probe(NamedTuple):
    """Whether bytes are a pickle: to its end, or up to a call that an unpickler would make; `acted` if it makes one.

    Both are true where the end of the budget came first: what was not seen is not harmless.
    """

    found: bool
    acted: bool


def probe(data: memoryview, start: int, context: Context) -> Probe:
    """Walk a little way into `data` without reporting anything."""
    walker = PickleWalker(data, start, max(0, min(PROBE_STEPS, context.steps_left)), inline_array)
    unfinished = False
    try:
        walker.walk()
    except OutOfStepsError:
        unfinished = not walker.underflow
    _charge(walker, context)
    whole = walker.complete and not walker.underflow and not isinstance(walker.top, Special)
    return Probe(whole or walker.acted or unfinished, walker.acted or unfinished)


def looks_like_pickle(data: memoryview, context: Context) -> bool:
    """Tell whether `data` begins a pickle of any protocol, whole or not."""
    if len(data) >= 2 and data[0] == 0x80 and data[1] <= _HIGHEST_PROTOCOL:
        return True
    return probe(data, 0, context).found


def _charge(walker: PickleWalker, context: Context) -> None:
    context.steps_left = max(0, context.steps_left - walker.steps - WALK_COST)


def _any_left(data: memoryview, start: int) -> bool:
    return any(bytes(data[at : at + (1 << 20)]).strip(_PADDING) for at in range(start, len(data), 1 << 20))


def _check_pids(walker: PickleWalker, content: Content, context: Context) -> None:
    if walker.persistent_ids:
        context.report("EG-SCAN-110", content, "asks its loader for objects by id")


def _read_without_joblib(content: Content, context: Context) -> None:
    """Read array bytes as opcodes; of what weights may say by chance, only a forbidden name counts."""
    walker = PickleWalker(content.data, 0, context.steps_left)
    with suppress(OutOfStepsError):
        walker.walk()
    _charge(walker, context)
    for note in walker.notes:
        if note.rule_id == "EG-SCAN-101":
            context.report(note.rule_id, content, note.message, offset=note.offset)


def _scan_constants(walker: PickleWalker, content: Content, context: Context) -> None:
    """Scan bytes constants that are pickles or archives themselves: somebody means to load them."""
    scanned = 0
    for span in walker.constants:
        if not _worth_a_scan(content.data, span, context):
            continue
        scanned += 1
        if scanned > MAX_NESTED:
            context.report("EG-SCAN-107", content, f"more than {MAX_NESTED} constants that may be pickles")
            return
        context.scan(content.part(span.start, span.end, f"bytes at {span.start}"))


def _worth_a_scan(data: memoryview, span: Span, context: Context) -> bool:
    if not 4 <= span.end - span.start <= MAX_KEPT_BYTES:
        return False
    head = bytes(data[span.start : span.start + 8])
    if head[0] == 0x80 and head[1] <= _HIGHEST_PROTOCOL:
        return data[span.end - 1] == ord(".") or head[1] >= 2
    if head.startswith(_NESTED_MAGIC):
        return True
    return head[:1] in (b"c", b"(", b"i") and probe(data[span.start : span.end], 0, context).acted
