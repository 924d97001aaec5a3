"""Scan of Keras models: the layer configuration in a `.keras` archive, and in HDF5 files as far as text can be found.

A Lambda layer carries a marshalled code object, which Keras runs when `safe_mode` is off (and before 2.13 always); any
layer or function from a module outside Keras is imported by name when the model is loaded (CVE-2024-3660,
CVE-2025-1550).

HDF5 is a file system in a file, and is searched for the configuration text instead of being walked. Such a file can be
found guilty but not clean.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any, Final

from edgeguard.scan.content import Content, Context, shown
from edgeguard.scan.findings import ScanVerdict
from edgeguard.scan.json_scan import BadJsonError, read_json, walk

HDF5_MAGIC: Final = b"\x89HDF\r\n\x1a\n"
_MODULE_KEYS: Final = ("module", "registered_name", "fn_module", "function_type")
_KERAS_ROOTS: Final = frozenset({"keras", "keras_core", "keras_hub", "keras_cv", "keras_nlp", "builtins", "tf_keras"})
_KERAS_REACH: Final = re.compile(
    r"^keras\.(?:src\.)?(?:utils|saving|models\.cloning|export|backend\.\w*\.?export|callbacks|datasets|wrappers)\b"
)
_LAMBDA: Final = re.compile(rb'"(?:class_name|name)"\s*:\s*"(?:Lambda|__lambda__|function|TFOpLambda|SlicingOpLambda)"')
_MODULE: Final = re.compile(rb'"module"\s*:\s*"([^"\\]{1,200})"')
_SEARCHED_BYTES: Final = 2 << 30
_MAX_HITS: Final = 100


def is_keras_archive(names: set[str]) -> bool:
    """Tell whether these are the members of a `.keras` archive."""
    return {"config.json", "metadata.json"} <= names


def scan_keras_config(content: Content, context: Context) -> None:
    """Scan the configuration of a Keras 3 model."""
    try:
        config = read_json(bytes(content.data))
    except BadJsonError as bad:
        context.report("EG-SCAN-401", content, f"the configuration {bad}")
        return
    nodes: list[Any] = [config]
    while nodes:
        node = nodes.pop()
        if isinstance(node, dict):
            _check_node(node, content, context)
            nodes.extend(node.values())
        elif isinstance(node, list):
            nodes.extend(node)


def _check_node(node: dict[str, Any], content: Content, context: Context) -> None:
    kind, module = node.get("class_name"), node.get("module")
    if kind == "__lambda__" or (kind == "Lambda" and _holds_code(node)):
        context.report("EG-SCAN-501", content, "a Lambda layer with a marshalled function")
    elif kind in ("Lambda", "TFOpLambda", "SlicingOpLambda"):
        context.report("EG-SCAN-502", content, f"a {kind} layer, which calls a function by name")
    if module is None and isinstance(kind, str) and node.get("registered_name") not in (None, "", kind):
        context.report("EG-SCAN-502", content, f"the class {shown(str(node['registered_name']))} is not one of Keras")
    if isinstance(module, str):
        name = node.get("class_name") or node.get("config")
        if module.split(".")[0] not in _KERAS_ROOTS:
            context.report("EG-SCAN-502", content, f"{shown(str(name))} is imported from {shown(module)}")
        elif _KERAS_REACH.match(module) or (module == "builtins" and kind not in ("function", None)):
            context.report("EG-SCAN-501", content, f"{shown(str(name))} of {shown(module)} is no layer")
    if kind == "function" and (module or "builtins") != "builtins" and str(module).split(".")[0] not in _KERAS_ROOTS:
        context.report("EG-SCAN-501", content, f"calls {shown(str(node.get('config')))} of {shown(str(module))}")


def _holds_code(node: dict[str, Any]) -> bool:
    """Tell whether a Lambda's configuration has base64 text that begins like marshalled code."""
    for _, held in walk(node):
        for text in held if isinstance(held, list) else [held]:
            if isinstance(text, str) and len(text) > 40 and _is_code(text):
                return True
    return False


def _is_code(text: str) -> bool:
    try:
        raw = base64.b64decode(text[:64].replace("\n", "")[:60], validate=True)
    except (binascii.Error, ValueError):
        return False
    return raw[:1] in (b"\xe3", b"\x63")  # marshal's 'c', with and without the reference flag


def scan_hdf5(content: Content, context: Context) -> str:
    """Search an HDF5 file for a Keras configuration that names code."""
    data = content.data[:_SEARCHED_BYTES]
    for count, match in enumerate(_LAMBDA.finditer(data)):
        tail = bytes(data[match.start() : match.start() + 4096])
        marshalled = b'"__lambda__"' in match.group() or re.search(rb'"4wEA|"4wAA|\\n"\s*,\s*null', tail) is not None
        if b'"function"' in match.group():
            continue
        rule = "EG-SCAN-501" if marshalled else "EG-SCAN-502"
        context.report(rule, content, "a Lambda layer in the configuration", offset=match.start())
        if count >= _MAX_HITS:
            break
    for count, match in enumerate(_MODULE.finditer(data)):
        module = match.group(1).decode("utf-8", "replace")
        if module.split(".")[0] not in _KERAS_ROOTS:
            context.report("EG-SCAN-502", content, f"a layer is imported from {shown(module)}", offset=match.start())
        if count >= 100 * _MAX_HITS:
            break
    message = "searched for code in the configuration; the structure of HDF5 is not walked"
    context.report("EG-SCAN-007", content, message, verdict=ScanVerdict.NOT_SCANNED)
    return "HDF5"
