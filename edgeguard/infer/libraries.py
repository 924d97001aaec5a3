"""Custom-operator libraries: native code that a model brings along runs only when its digest is signed with the model.

A library is opened without following links, copied into a sealed memory file, hashed there, and loaded from that very
file: what was hashed is what runs, whatever happens to the path meanwhile.

ATLAS: AML.M0011 (restrict library loading).
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from edgeguard.errors import InferenceError, SignatureError
from edgeguard.infer.runtime import sealed_memory_file
from edgeguard.keys.regular_file import open_regular, read_up_to

MAX_LIBRARY_BYTES: Final = 512 * 1024 * 1024  # the largest provider libraries are below it
_PATH_BITS: Final = 32
_loads = itertools.count()  # of this process; counting is one step under the interpreter's lock


def checked_libraries(paths: Sequence[Path | str], signed: Mapping[str, str]) -> list[bytes]:
    """Return the contents of the libraries, each with exactly the digest that is signed under its file name.

    Args:
        paths: files to load. signed: SHA-256 (hex) by file name, from the signed manifest.

    Raises:
        SignatureError: EG-S006, the library is not the signed one, or none of that name is signed, or a signed one is
            not given. InferenceError: EG-I015, it cannot be read.
    """
    contents: list[bytes] = []
    for path in map(Path, paths):
        if path.name not in signed:
            raise SignatureError(
                f"the bundle signs no library named {path.name}",
                code="EG-S006",
                hint="pack the model with: edgeguard-provision pack ... --library FILE",
            )
        content = _read(path)
        if hashlib.sha256(content).hexdigest() != signed[path.name]:
            raise SignatureError(
                f"the library {path.name} is not the one that was signed with the model",
                code="EG-S006",
                hint="install the library that belongs to this release",
            )
        contents.append(content)
    missing = sorted(set(signed) - {Path(path).name for path in paths})
    if missing:
        raise SignatureError(
            f"the model needs the library {missing[0]}", code="EG-S006", hint=f"pass libraries=[.../{missing[0]}]"
        )
    return contents


@contextmanager
def registered(options: Any, contents: Sequence[bytes]) -> Iterator[None]:
    """Register libraries with onnxruntime options from sealed memory files, which stay open for the block.

    Raises:
        InferenceError: EG-I015, onnxruntime cannot load one.
    """
    if not contents:
        yield
        return
    first, *others = contents
    with sealed_memory_file(first, executable=True) as fd:
        failed = False
        try:
            options.register_custom_ops_library(_path_of_its_own(fd))
        except Exception:
            failed = True
        if failed:
            raise InferenceError(
                "a signed library cannot be loaded by this onnxruntime",
                code="EG-I015",
                hint="build it for this processor and onnxruntime version; it must export RegisterCustomOps",
            )
        with registered(options, others):
            yield


def _path_of_its_own(fd: int) -> str:
    """Return a path to an open file that this process has never spelled before.

    The dynamic linker takes a library that is still loaded under the same name instead of opening the path, and
    descriptor numbers come back: a second model's library would be the first one's. So each load writes its number into
    the spelling, a bit for each step that leads nowhere.
    """
    number = next(_loads)
    steps = (".//" if number >> bit & 1 else "./" for bit in range(_PATH_BITS))
    return f"/proc/self/fd/{''.join(steps)}{fd}"


def _read(path: Path) -> bytes:
    reason = ""
    content = b""
    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size > MAX_LIBRARY_BYTES:
                reason = f"larger than {MAX_LIBRARY_BYTES} bytes"
            else:
                content = read_up_to(file, MAX_LIBRARY_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or "not a path").lower()
    if reason:
        raise InferenceError(f"cannot read the library {path}: {reason}", code="EG-I015", hint="check the path")
    return content
