"""Scan of PyTorch checkpoints: the zip that torch.save and torch.jit.save write, and the row of pickles before 1.6.

The pickle in a checkpoint names its tensors' data by persistent ids (`("storage", type, key, location, elements)`);
data members that nothing names, or that are too short, are findings.

Source: torch/serialization.py (`_save`, `_legacy_save`), torch 2.13; caffe2/serialize/inline_container.cc.
"""

from __future__ import annotations

from typing import Final

from edgeguard.scan.content import Content, Context, shown
from edgeguard.scan.pickle_scan import walk_pickle
from edgeguard.scan.pickle_values import Import, Items, Value
from edgeguard.scan.zip_reader import STORED, ZipMember, unpack

LEGACY_MAGIC: Final = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # LONG1 0x1950a86a20f9469cfc6c, STOP
_SCRIPT_NAMES: Final = "__torch__."  # classes that the TorchScript program defines
_SHAPES_ONLY: Final = "traced_inputs"  # examples that tracing keeps the shapes of, without their data
_PID_PARTS: Final = (5, 6)
_ELEMENT_BYTES: Final = {
    "BFloat16Storage": 2, "BoolStorage": 1, "ByteStorage": 1, "CharStorage": 1, "ComplexDoubleStorage": 16,
    "ComplexFloatStorage": 8, "DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "IntStorage": 4,
    "LongStorage": 8, "QInt32Storage": 4, "QInt8Storage": 1, "QUInt2x4Storage": 1, "QUInt4x2Storage": 1,
    "QUInt8Storage": 1, "ShortStorage": 2, "UntypedStorage": 1,
}  # fmt: skip
_MAX_RECORD_BYTES: Final = 64  # a version, a byte order, an id
_PLAIN_RECORDS: Final = frozenset(
    {"version", "byteorder", ".format_version", ".storage_alignment", ".data/version", ".data/serialization_id"}
)


def checkpoint_prefix(members: list[ZipMember]) -> str | None:
    """Return the folder ("name/" or "") of the checkpoint that the archive is, None when it is none."""
    for member in members:
        if member.name == "data.pkl" or (member.name.endswith("/data.pkl") and member.name.count("/") == 1):
            return member.name.removesuffix("data.pkl")
    return None


def scan_checkpoint(members: list[ZipMember], prefix: str, content: Content, context: Context) -> str:
    """Scan the zip format; `prefix` is what `checkpoint_prefix` said."""
    own = [(member.name.removeprefix(prefix), member) for member in members if member.name.startswith(prefix)]
    script = any(name.startswith("code/") for name, _ in own)
    if script:
        message = "the model brings its own program, which runs when it is called"
        context.report("EG-SCAN-209", content, message)
    named: dict[str, int] = {}
    for name, member in own:
        if _is_program(name):
            plain = unpack(member, content, context)
            folder = "data" if name == "data.pkl" else name.removesuffix(".pkl")
            storages = {} if plain is None else _storages(plain, context, folder, _SCRIPT_NAMES if script else "")
            if folder != _SHAPES_ONLY:
                named.update(storages)
    unseen = set(named)
    for name, member in own:
        unseen.discard(name)
        if name in named:
            _check_storage(member, named[name], content, context)
        elif not _is_record(name, member, script):
            _scan_other(name, member, content, context)
    for member in members:
        if not member.name.startswith(prefix):
            _scan_other("", member, content, context)
    for name in sorted(unseen):
        context.report("EG-SCAN-211", content, f"the data of {shown(name)} is not there")
    return "TorchScript archive" if script else "PyTorch checkpoint"


def _is_program(name: str) -> bool:
    return name.endswith(".pkl") and "/" not in name


def _is_record(name: str, member: ZipMember, script: bool) -> bool:
    """Tell whether a member is one that PyTorch writes and that holds no tensor."""
    if member.is_folder or _is_program(name):
        return True
    if name in _PLAIN_RECORDS:
        return member.size <= _MAX_RECORD_BYTES
    if not script:
        return False
    if name.startswith(f"{_SHAPES_ONLY}/"):
        return member.size == 0
    # The program is named by EG-SCAN-209; the tables beside it are read only to print source lines.
    return name.startswith("code/") and name.endswith((".py", ".debug_pkl"))


def _scan_other(name: str, member: ZipMember, content: Content, context: Context) -> None:
    if name.startswith(("data/", "constants/")):
        part = content.part(member.start, member.end, member.name)
        context.report("EG-SCAN-211", part, "data that no tensor uses")
        return
    plain = unpack(member, content, context)
    if plain is not None and not member.is_folder:
        context.scan(plain)


def _storages(plain: Content, context: Context, folder: str, own_names: str) -> dict[str, int]:
    """Walk one pickle of the checkpoint; return which members its tensors are in, and their least size."""
    walker = walk_pickle(plain, 0, context, own_names=own_names)
    if walker.complete and walker.end < len(plain.data):
        context.report("EG-SCAN-106", plain, "bytes follow the end of the pickle", offset=walker.end)
    named: dict[str, int] = {}
    for pid in walker.persistent_ids:
        storage = _storage(pid)
        if storage is None:
            context.report("EG-SCAN-110", plain, "asks its loader for something that is no storage")
        else:
            key, size = storage
            named[f"{folder}/{key}"] = max(size, named.get(f"{folder}/{key}", 0))
    return named


def _storage(pid: Value) -> tuple[str, int] | None:
    """Return key and bytes of a storage's persistent id."""
    if not (isinstance(pid, tuple) and len(pid) in _PID_PARTS and pid[0] == "storage"):
        return None
    kind, key, elements = pid[1], pid[2], pid[4]
    if not (isinstance(kind, Import) and isinstance(key, str) and isinstance(elements, int) and elements >= 0):
        return None
    return key, elements * _ELEMENT_BYTES.get(kind.name, 1)


def _check_storage(member: ZipMember, least: int, content: Content, context: Context) -> None:
    if member.size < least or (member.method == STORED and member.end - member.start < least):
        part = content.part(member.start, member.end, member.name)
        context.report("EG-SCAN-211", part, f"{member.size} bytes where its tensors need {least}")


def is_legacy(data: memoryview) -> bool:
    """Tell whether `data` begins with the magic number of checkpoints before PyTorch 1.6."""
    return bytes(data[2 : 2 + len(LEGACY_MAGIC)]) == LEGACY_MAGIC and data[0] == 0x80


def scan_legacy(content: Content, context: Context) -> str:
    """Scan the row of five pickles and the raw storages behind them."""
    at = 0
    storages: dict[str, int] = {}
    keys: Value = None
    for _ in range(5):  # magic number, protocol version, system info, the object, storage keys
        walker = walk_pickle(content, at, context)
        for pid in walker.persistent_ids:
            storage = _storage(pid)
            if storage is None:
                context.report("EG-SCAN-110", content, "asks its loader for something that is no storage")
            else:
                storages[storage[0]] = max(storage[1], storages.get(storage[0], 0))
        at, keys = walker.end, walker.top
        if not walker.complete:
            return "PyTorch checkpoint (legacy)"
    if not (isinstance(keys, Items) and all(isinstance(key, str) for key in keys.items)):
        context.report("EG-SCAN-211", content, "the list of tensors is no list of names", offset=at)
        return "PyTorch checkpoint (legacy)"
    for key in keys.items:
        if key not in storages or at + 8 > len(content.data):
            context.report("EG-SCAN-211", content, f"the data of {shown(key)} is not there or never used", offset=at)
            return "PyTorch checkpoint (legacy)"
        at += 8 + storages[str(key)]
    if at != len(content.data):
        end = min(at, len(content.data))
        context.report("EG-SCAN-211", content, "data and tensors do not add up", offset=end)
    return "PyTorch checkpoint (legacy)"
