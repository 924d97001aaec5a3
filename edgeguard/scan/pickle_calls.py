"""Arguments that turn a harmless constructor into something else: memory out of nothing, codecs that unpack."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from edgeguard.scan.content import shown
from edgeguard.scan.pickle_values import Import, Made, Value

MAX_ASKED_BYTES: Final = 2 << 30  # what one call of a few bytes may reserve; the largest tensor a board takes
# Encodings in which protocol 2 writes bytes objects; `_codecs.encode(x, "zlib")` and its like do more than encode.
_BYTES_ENCODINGS: Final = frozenset({"latin1", "latin-1", "iso-8859-1", "utf-8", "utf8", "ascii"})
_RESERVING: Final = frozenset({"bytearray", "bytes"})
_COLLECTING: Final = frozenset({"list", "tuple", "set", "frozenset", "bytes", "bytearray"})


def check_call(callee: Import, arguments: Value) -> Iterator[tuple[str, str]]:
    """Yield rule and message for each thing wrong with calling `callee` so."""
    given = arguments if isinstance(arguments, tuple) else ()
    if callee.module == "_codecs" and callee.name == "encode":
        encoding = given[1] if len(given) > 1 else "utf-8"
        if not (isinstance(encoding, str) and encoding.lower() in _BYTES_ENCODINGS):
            yield "EG-SCAN-104", f"encodes with {shown(encoding)}"
    if callee.module in ("builtins", "__builtin__"):
        yield from _builtin(callee.name, given)
    shape = given[1] if callee.name == "_reconstruct" and len(given) > 1 else None
    if isinstance(shape, tuple) and _product(shape) > MAX_ASKED_BYTES:
        yield "EG-SCAN-108", "makes an array out of proportion"


def _builtin(name: str, given: tuple[Value, ...]) -> Iterator[tuple[str, str]]:
    first = given[0] if given else None
    if name in _RESERVING and isinstance(first, int) and first > MAX_ASKED_BYTES:
        yield "EG-SCAN-108", f"reserves {first} bytes"
    source = first.callee if isinstance(first, Made) else None
    if name in _COLLECTING and isinstance(source, Import) and source.name in ("range", "xrange"):
        yield "EG-SCAN-108", f"fills a {name} from a range"


def _product(dims: tuple[Value, ...]) -> int:
    product = 1
    for dim in dims[:64]:
        product *= max(dim, 0) if isinstance(dim, int) else 1
    return product
