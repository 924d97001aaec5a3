"""Scan of zip archives: PyTorch checkpoints, NPZ, Keras, and plain ones."""

from __future__ import annotations

from edgeguard.scan.content import Content, Context
from edgeguard.scan.keras_scan import is_keras_archive, scan_keras_config
from edgeguard.scan.torch_scan import checkpoint_prefix, scan_checkpoint
from edgeguard.scan.zip_reader import NoZipError, read_members, unpack


def scan_zip(content: Content, context: Context) -> str:
    """Scan a zip archive and everything in it."""
    try:
        members = read_members(content, context)
    except NoZipError:
        context.report("EG-SCAN-207", content, "the archive has no directory")
        return "zip archive"
    prefix = checkpoint_prefix(members)
    if prefix is not None:
        return scan_checkpoint(members, prefix, content, context)
    names = {member.name for member in members}
    keras = is_keras_archive(names)
    kinds: set[str] = set()
    for member in members:
        if member.is_folder and member.size == 0:
            continue
        plain = unpack(member, content, context)
        if plain is None:
            continue
        if keras and member.name == "config.json":
            scan_keras_config(plain, context)
        else:
            kinds.add(context.scan(plain))
    if keras:
        return "Keras archive"
    return "NPZ archive" if kinds and all(kind.startswith("NPY") for kind in kinds) else "zip archive"
