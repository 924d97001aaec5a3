"""Mutated manifests, signatures, statements, payloads, wraps and graphs: our errors, or no change of meaning.

`python tests/fuzz/fuzz_protected.py TARGET SEED CASES` runs one target alone.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeguard.bundle.dsse import STATEMENT_TYPE
from edgeguard.bundle.manifest import Manifest
from edgeguard.bundle.model import open_from_storage
from edgeguard.bundle.payload import decrypt_payloads
from edgeguard.bundle.signature import parse_signed
from edgeguard.bundle.statement import parse_statement
from edgeguard.errors import BundleFormatError, EdgeGuardError
from edgeguard.harden.memory import SecretBuffer, wipe
from edgeguard.keys.file import FileKeyProvider
from edgeguard.scan.onnx_gate import check_model
from edgeguard.trust.store import TrustStore
from edgeguard.trust.strict_json import canonical, convert, parse
from firmware_tools.enroll import enroll, make_request
from firmware_tools.fleet import Fleet
from firmware_tools.grant import grant
from firmware_tools.pack import Release, pack_model

NOW_NS = 1_790_000_000_000_000_000
MODEL_ID = "fuzzed"
HOSTILE: list[object] = [
    None, True, "", "\0", "..", "/etc/passwd", "0" * 400, "\ud800", -1, 0, 2**63, 2**70, 1e308, [], {}, [[]], {"": {}},
]  # fmt: skip
MAX_ERROR_CHARACTERS = 2000
NESTED = b"[" * 100_000


@dataclass(frozen=True)
class Storage:
    """A bundle in memory."""

    files: Mapping[str, bytes]

    def read_small(self, name: str, limit: int) -> bytes:
        content = self.read_optional(name, limit)
        if content is None:
            raise BundleFormatError("missing", code="EG-B002")
        return content

    def read_optional(self, name: str, limit: int) -> bytes | None:
        content = self.files.get(name)
        if content is not None and len(content) > limit:
            raise BundleFormatError("too large", code="EG-B002")
        return content

    @contextmanager
    def open_stream(self, name: str) -> Iterator[io.BytesIO]:
        yield io.BytesIO(self.files[name])

    def entries(self, folder: str, limit: int) -> frozenset[str] | None:
        prefix = f"{folder}/" if folder else ""
        below = [n[len(prefix) :] for n in self.files if n.startswith(prefix)]
        names = frozenset(n.partition("/")[0] + ("/" if "/" in n else "") for n in below)
        if len(names) > limit:
            raise BundleFormatError("too many", code="EG-B005")
        return names or None


class Fuzzed:
    """One genuine bundle of a fleet of one, and the targets that chew on its parts."""

    def __init__(self, work: Path) -> None:
        fleet = Fleet.create(
            work / "fleet", name="fuzz", wall_ns=NOW_NS, allow_unlocked_memory=True, device_state="optional"
        )
        self.trust: TrustStore = fleet.trust(NOW_NS)
        self.key = FileKeyProvider.generate(work / "device.pem")
        (work / "request").write_bytes(make_request(self.key, self.trust, device_name="d", board="generic"))
        enroll(fleet, work / "request", confirm=lambda _: True, wall_ns=NOW_NS)
        onnx.save(_model(), work / "m.onnx")
        pack_model(fleet, work / "m.onnx", work / "b", release=Release(MODEL_ID, "1"), wall_ns=NOW_NS)
        grant(fleet, work / "b", "d", wall_ns=NOW_NS)
        bundle = work / "b"
        self.files = {str(p.relative_to(bundle)): p.read_bytes() for p in bundle.rglob("*") if p.is_file()}
        model = self._open(self.files)
        self.statement, self.manifest = model.statement, model.manifest
        self.graph = bytes(model.graph)
        self.weights = {name: len(w) for name, w in model.weights.items()}
        self.plaintexts = [self.graph, *(bytes(w) for w in model.weights.values())]
        model.close()
        self.signed = parse_signed(self.files["model.sig"], STATEMENT_TYPE, what="model.sig")
        self.wrap_name = f"recipients/{self.key.kid}.hpke"
        with self.key.open_wrap(self.statement, self.files[self.wrap_name]) as cek:
            self.cek = bytes(cek.view)
        self.targets: dict[str, Callable[[random.Random], bool]] = {
            "signature": self.signature,
            "statement": self.fuzz_statement,
            "manifest": self.fuzz_manifest,
            "payload": self.payload,
            "recipient": self.recipient,
            "gate": self.gate,
            "bundle": self.bundle,
        }

    def run(self, target: str, seed: int, cases: int) -> int:
        """Run `cases` of a target; return how many were let through. Anything but our error propagates."""
        dice = random.Random(seed)
        passed = 0
        for _ in range(cases):
            try:
                passed += self.targets[target](dice)
            except EdgeGuardError as error:
                if not error.code.startswith("EG-") or len(str(error)) > MAX_ERROR_CHARACTERS:
                    raise AssertionError("an error without a code, or one that carries the input along") from error
        return passed

    def signature(self, dice: random.Random) -> bool:
        parse_signed(mutate_json(dice, self.files["model.sig"]), STATEMENT_TYPE, what="model.sig")
        return True

    def fuzz_statement(self, dice: random.Random) -> bool:
        parse_statement(mutate_json(dice, self.signed.payload))
        return True

    def fuzz_manifest(self, dice: random.Random) -> bool:
        convert(parse(mutate_json(dice, self.files["manifest.json"]), what="manifest.json"), Manifest, what="manifest")
        return True

    def payload(self, dice: random.Random) -> bool:
        """Half of the time the digest is that of the damaged bytes: then the AEAD alone must refuse."""
        name = dice.choice([p.name for p in self.manifest.payloads])
        raw = mutate_bytes(dice, self.files[f"payload/{name}"])
        files = {**self.files, f"payload/{name}": raw}
        digests = {n: hashlib.sha256(c).hexdigest() for n, c in self.files.items()}
        if dice.random() < 0.5:
            digests[f"payload/{name}"] = hashlib.sha256(raw).hexdigest()
        with SecretBuffer(len(self.cek)) as cek:
            cek.view[:] = self.cek
            opened = decrypt_payloads(Storage(files), self.manifest, digests, cek, "allow")  # type: ignore[arg-type]
        contents = [bytes(mapping) for mapping in opened.values()]
        for mapping in opened.values():
            wipe(mapping)
        assert contents == self.plaintexts, "damaged ciphertext was opened"
        return raw == self.files[f"payload/{name}"]

    def recipient(self, dice: random.Random) -> bool:
        wrap = mutate_bytes(dice, self.files[self.wrap_name])
        with self.key.open_wrap(self.statement, wrap) as cek:
            assert bytes(cek.view) == self.cek
        assert wrap == self.files[self.wrap_name], "a damaged wrap was opened"
        return True

    def gate(self, dice: random.Random) -> bool:
        check_model(mutate_bytes(dice, self.graph), self.weights)
        return True

    def bundle(self, dice: random.Random) -> bool:
        """The whole way, one file damaged: it opens only where the damage is none, or is in a list that rides along."""
        name = dice.choice(sorted(self.files))
        change = mutate_json if name.endswith((".json", ".sig")) else mutate_bytes
        raw = change(dice, self.files[name])
        model = self._open({**self.files, name: raw})
        model.close()
        # A revocation list in a bundle is a courtesy: whoever can damage it can as well leave it out.
        along = name.startswith("signatures/revocation")
        assert along or raw == self.files[name], f"{name} was damaged and the bundle opened"
        return True

    def _open(self, files: Mapping[str, bytes]):  # type: ignore[no-untyped-def]
        return open_from_storage(
            Storage(files), trust=self.trust, key=self.key, expect_model=MODEL_ID, wall_ns=NOW_NS  # type: ignore[arg-type]
        )  # fmt: skip


def mutate_json(dice: random.Random, raw: bytes) -> bytes:
    """Change the meaning, the spelling or the bytes of a JSON document."""
    kind = dice.randrange(10)
    if kind < 5:
        document = json.loads(raw)
        for _ in range(dice.randint(1, 3)):
            _change(dice, document)
        try:
            return canonical(document)
        except (ValueError, TypeError):
            return json.dumps(document).encode()
    if kind == 5:
        return json.dumps(json.loads(raw), indent=1).encode()
    if kind == 6:
        at = raw.find(b'"', dice.randrange(len(raw)))
        return raw[:at] + raw[1 : dice.randrange(2, 60)] + b"," + raw[at:] if at >= 0 else raw
    if kind == 7 and dice.random() < 0.05:
        return NESTED[: dice.randrange(1, len(NESTED))] + raw
    return mutate_bytes(dice, raw)


def _change(dice: random.Random, document: object) -> None:
    """Walk to a random place and replace, remove, add or swap there."""
    node: object = document
    while True:
        if isinstance(node, dict) and node:
            place: object = dice.choice(list(node))
        elif isinstance(node, list) and node:
            place = dice.randrange(len(node))
        else:
            return
        below = node[place]  # type: ignore[index,call-overload]
        if isinstance(below, (dict, list)) and below and dice.random() < 0.75:
            node = below
            continue
        action = dice.randrange(5)
        if action == 0:
            del node[place]  # type: ignore[attr-defined,arg-type]
        elif action == 1 and isinstance(node, dict):
            node[dice.choice(["", "schema", "x", "\0", str(place) + "x"])] = below
        elif action == 2 and isinstance(below, str) and below:
            at = dice.randrange(len(below))
            node[place] = below[:at] + dice.choice("0aZ./\\\0\u00e9") + below[at + 1 :]  # type: ignore[index,call-overload]
        elif action == 3 and isinstance(below, int):
            node[place] = below + dice.choice([-1, 1, 1 << 32])  # type: ignore[index,call-overload]
        else:
            node[place] = copy.deepcopy(dice.choice(HOSTILE))  # type: ignore[index,call-overload]
        return


def mutate_bytes(dice: random.Random, raw: bytes) -> bytes:
    """Flip, cut, insert, repeat, overwrite; now and then nothing at all."""
    data = bytearray(raw)
    for _ in range(dice.choice([0, 1, 1, 1, 2, 4])):
        at = dice.randrange(len(data) + 1)
        kind = dice.randrange(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << dice.randrange(8)
        elif kind == 1:
            del data[at : at + dice.choice([1, 4, 16, 16_400])]
        elif kind == 2:
            data[at:at] = dice.randbytes(dice.choice([1, 4, 16, 16_400]))
        elif kind == 3:
            data[at:at] = data[at : at + dice.choice([2, 8, 40])]
        elif kind == 4 and at < len(data):
            data[at] = dice.choice([0, 0x7F, 0x80, 0xFF])
        else:
            del data[at:]
        if not data:
            break
    return bytes(data)


def _model() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    info, nodes = helper.make_tensor_value_info, []
    branch = [
        helper.make_graph([helper.make_node("Identity", ["y"], [n])], n, [], [info(n, TensorProto.FLOAT, [1, 90])])
        for n in ("then", "else")
    ]
    nodes.append(helper.make_node("MatMul", ["x", "w"], ["y"]))
    nodes.append(helper.make_node("If", ["c"], ["z"], then_branch=branch[0], else_branch=branch[1]))
    graph = helper.make_graph(
        nodes,
        "fuzz",
        [info("x", TensorProto.FLOAT, [1, 90]), info("c", TensorProto.BOOL, [])],
        [info("z", TensorProto.FLOAT, [1, 90])],
        [numpy_helper.from_array(rng.standard_normal((90, 90)).astype(np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def main() -> None:
    target, seed, cases = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with tempfile.TemporaryDirectory() as folder:
        passed = Fuzzed(Path(folder)).run(target, seed, cases)
    sys.stdout.write(f"{target}: {passed} of {cases} let through\n")


if __name__ == "__main__":
    main()
