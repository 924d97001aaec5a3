"""What an imported name means: harmless, unknown, or a way to act on the machine.

A pickle is a program whose only verbs are "import this name" and "call it". Lists of forbidden names have been walked
around for years (the advisories of picklescan and fickling are a catalogue), so this module is built the other way
round:

- a short list of exact names is harmless;
- the whole standard library is forbidden, but for modules that only define data types (those are unknown);
- everything else is unknown, and known to be bad where somebody has shown how;
- unknown is never clean.

ATLAS: AML.M0011 (restrict library loading).
"""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Final, NamedTuple

from edgeguard.scan.findings import ScanVerdict
from edgeguard.scan.pickle_lists import (
    ALLOWED,
    ALLOWED_DTYPES,
    DATA_MODULES,
    FORBIDDEN_NAMES,
    FORBIDDEN_PREFIXES,
    HARMLESS_BUILTINS,
    PYTHON2_MODULES,
    PYTHON2_NAMES,
    REMOVED_MODULES,
    TELLING_NAMES,
)

_STDLIB: Final = (sys.stdlib_module_names | REMOVED_MODULES) - {"__future__", "this"}


class Judgement(NamedTuple):
    """What importing a name means, and why in a few words ("" when clean)."""

    verdict: ScanVerdict
    reason: str


_HARMLESS: Final = Judgement(ScanVerdict.CLEAN, "")


def _forbidden(reason: str) -> Judgement:
    return Judgement(ScanVerdict.MALICIOUS, reason)


def _unknown(reason: str) -> Judgement:
    return Judgement(ScanVerdict.SUSPICIOUS, reason)


@lru_cache(maxsize=4096)
def judge(module: str, name: str, protocol: int) -> Judgement:
    """Say what importing `name` from `module` means in a pickle of that protocol.

    Below protocol 3 the unpickler renames Python 2 modules. A file can claim any protocol, so both readings count.
    """
    renamed = PYTHON2_NAMES.get((module, name), (PYTHON2_MODULES.get(module, module), name))
    plain = _judge_exact(module, name)
    if renamed == (module, name):
        return plain
    mapped = _judge_exact(*renamed)
    if protocol < 3:  # only the new name is ever looked up
        return mapped if plain.verdict is not ScanVerdict.MALICIOUS else plain
    return max(plain, mapped, key=lambda judgement: judgement.verdict.rank)


def _judge_exact(module: str, name: str) -> Judgement:
    if (module, name) in ALLOWED or (module == "torch" and name in ALLOWED_DTYPES):
        return _HARMLESS
    root = module.split(".", 1)[0]
    # From protocol 4 a name may have dots: `torch` + `os.system` reaches a module through another's attributes. The
    # module itself is looked up among modules, so only the name can do this.
    for part in name.split("."):
        if part in TELLING_NAMES:
            return _forbidden(f"reaches {part} through {root}")
        if part.startswith("__") and part.endswith("__") and part not in ("__init__", "__new__"):
            return _forbidden(f"reaches the internals of an object through {part}")
    if root in ("builtins", "__builtin__"):
        return _builtin(name)
    if root in _STDLIB:
        if root in DATA_MODULES and module == root and "." not in name and (module, name) not in FORBIDDEN_NAMES:
            return _unknown("a standard library type that models do not need")
        return _forbidden("the standard library can act on the machine")
    joined = f"{module}.{name}"
    for prefix in FORBIDDEN_PREFIXES:
        if joined == prefix or joined.startswith(prefix + "."):
            return _forbidden("known to run or load code")
    if (module, name) in FORBIDDEN_NAMES:
        return _forbidden("known to run or load code")
    if root in ("__main__", "__mp_main__"):
        return _unknown("code of the script that saved it")
    return _unknown("not known to be harmless")


def _builtin(name: str) -> Judgement:
    if name in HARMLESS_BUILTINS:
        return _HARMLESS
    if name.endswith(("Error", "Exception", "Warning")) and name.isalpha():
        return _unknown("an exception type")
    return _forbidden("a built-in function that acts or reaches")
