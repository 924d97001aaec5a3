"""manifest.json: what the payloads are and how the model is fed. docs/formats/bundle.md sections 4 and 5.

The structs are the schema: unknown fields, wrong types and values outside the bounds are refused. The manifest is
signed through the statement, so what runs is what was evaluated, pre-processing included.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec

MANIFEST_SCHEMA = "edgeguard/manifest/v1"
CipherName = Literal["aes-256-gcm-c2sp", "chacha20-poly1305-c2sp"]
CIPHER_AES_256_GCM: Final[CipherName] = "aes-256-gcm-c2sp"
CIPHER_CHACHA20_POLY1305: Final[CipherName] = "chacha20-poly1305-c2sp"

CHUNK_BYTES = 16 * 1024  # plaintext bytes per AEAD chunk, fixed by C2SP chunked-encryption
TAG_BYTES = 16
SALT_BYTES = 24
COMMITMENT_BYTES = 32
HEADER_BYTES = SALT_BYTES + COMMITMENT_BYTES  # at the start of every payload file
SPAN_BYTES = 4 * 1024 * 1024  # unit of the span digests: small enough to fetch again, few enough to list

MAX_PAYLOADS = 64  # a model is a graph and a few weight files
MAX_PAYLOAD_BYTES = 16 * 1024**3  # no supported board has more memory than this for a model
MAX_LABELS = 4096
MAX_OPERATOR_DOMAINS = 16
# Operators that onnxruntime brings itself: no library adds to these.
RESERVED_DOMAINS = frozenset({"ai.onnx", "ai.onnx.ml", "com.microsoft"})
MAX_LIBRARIES = 8  # custom operators of one model; none is known to need more than two

Hex32 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{32}\Z")]
Hex48 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{48}\Z")]
Hex64 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
# Identifiers appear in file names, tables and log lines: ASCII, no separators, no leading dot.
Identifier = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")]
Location = Annotated[str, msgspec.Meta(pattern=r"\A([A-Za-z0-9_][A-Za-z0-9._-]{0,127})?\Z")]
LibraryName = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_][A-Za-z0-9._+-]{0,127}\Z")]
Label = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Pixels = Annotated[int, msgspec.Meta(ge=1, le=16384)]
Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
MAX_THERMOMETER_LEVELS = 64  # more than that of 256 values is no coding any more, and 192 planes are a large input


class InputSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How an image becomes the model's input tensor: tensor = (pixel * scale - mean) / std, per channel.

    `size_px` is (width, height). `mean` and `std` are in the channel order that `color` names. With thermometer_levels
    L above zero each channel becomes L planes of 0 and 1 instead: plane k of a channel says whether the pixel exceeds
    k / L of full scale, and scale, mean and std are not used (Buckman et al., ICLR 2018).
    """

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    layout: Literal["NCHW", "NHWC"]
    size_px: tuple[Pixels, Pixels]
    color: Literal["RGB", "BGR"]
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: Literal["stretch", "letterbox", "shorter-side-crop"]
    thermometer_levels: Annotated[int, msgspec.Meta(ge=0, le=MAX_THERMOMETER_LEVELS)] = 0

    @property
    def channels(self) -> int:
        """How many planes the input tensor has."""
        return 3 * (self.thermometer_levels or 1)

    def __post_init__(self) -> None:
        if self.scale == 0.0 or any(s <= 0.0 for s in self.std):
            raise ValueError("scale must not be zero and std must be above zero")


class DecoderSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How output tensors become answers. `raw` hands the tensors on and uses none of the other fields.

    A classifier's one output has a value per class; the first `class_offset` of them (a background) are left out.
    """

    kind: Literal["grid-detector/v1", "classifier/v1", "raw"]
    labels: Annotated[tuple[Label, ...], msgspec.Meta(max_length=MAX_LABELS)] = ()
    stride_px: Annotated[int, msgspec.Meta(ge=0, le=4096)] = 0
    score_threshold: Share = 0.0
    iou_threshold: Share = 1.0
    class_offset: Annotated[int, msgspec.Meta(ge=0, le=4096)] = 0
    activation: Literal["logits", "probabilities"] = "logits"

    def __post_init__(self) -> None:
        if self.kind == "grid-detector/v1" and (not self.labels or self.stride_px < 1):
            raise ValueError("a grid detector needs labels and a stride of at least one pixel")


class ModelIo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What goes in and how to read what comes out."""

    input: InputSpec
    decoder: DecoderSpec


class Cipher(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The one cipher of all payloads of a bundle."""

    name: CipherName
    chunk_bytes: Literal[16384]
    span_bytes: Literal[4194304]


class Payload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One encrypted file under payload/.

    `location` is the external-data location that the graph names (weights only). `spans` are SHA-256 digests of the
    ciphertext, one per started 4 MiB. `plaintext_hmac` binds the plaintext without publishing a digest of it.
    """

    name: Annotated[str, msgspec.Meta(pattern=r"\A[0-9]{3}\.egc\Z")]
    role: Literal["graph", "weights", "golden"]
    location: Location
    plaintext_bytes: Annotated[int, msgspec.Meta(ge=1, le=MAX_PAYLOAD_BYTES)]
    ciphertext_bytes: Annotated[int, msgspec.Meta(ge=1, le=2 * MAX_PAYLOAD_BYTES)]
    salt: Hex48
    commitment: Hex64
    spans: tuple[Hex64, ...]
    plaintext_hmac: Hex64

    def __post_init__(self) -> None:
        if self.ciphertext_bytes != ciphertext_size(self.plaintext_bytes):
            raise ValueError("ciphertext_bytes does not belong to plaintext_bytes")
        if len(self.spans) != -(-self.ciphertext_bytes // SPAN_BYTES):
            raise ValueError("there must be one span digest per started 4 MiB of ciphertext")
        if (self.role == "weights") != (self.location != ""):
            raise ValueError("weights have a location, the others have none")


class Library(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A custom-operator library that this model may load: its file name and SHA-256. It is not part of the bundle."""

    name: LibraryName
    sha256: Hex64


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The whole of manifest.json."""

    schema: Literal["edgeguard/manifest/v1"]
    bundle_id: Hex32
    fleet_id: Hex64
    model_id: Identifier
    cipher: Cipher
    payloads: Annotated[tuple[Payload, ...], msgspec.Meta(min_length=1, max_length=MAX_PAYLOADS)]
    io: ModelIo | None = None
    libraries: Annotated[tuple[Library, ...], msgspec.Meta(max_length=MAX_LIBRARIES)] = ()
    operator_domains: Annotated[tuple[Identifier, ...], msgspec.Meta(max_length=MAX_OPERATOR_DOMAINS)] = ()
    # The schema of its content belongs to the room that uses it (infer), which no bundle needs in order to be opened.
    input_policy: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if [p.name for p in self.payloads] != [f"{i:03d}.egc" for i in range(len(self.payloads))]:
            raise ValueError("payloads are named 000.egc, 001.egc, ... in order")
        if [p.role for p in self.payloads].count("graph") != 1:
            raise ValueError("there is exactly one graph")
        if [p.role for p in self.payloads].count("golden") > 1:
            raise ValueError("there is at most one payload of golden data")
        locations = [p.location.casefold() for p in self.payloads if p.role == "weights"]
        if len(set(locations)) != len(locations):
            raise ValueError("weight locations must differ, also when case is ignored")
        if sum(p.plaintext_bytes for p in self.payloads) > MAX_PAYLOAD_BYTES:
            raise ValueError("the payloads together are larger than any supported board's memory")
        names = [library.name for library in self.libraries]
        if names != sorted(set(names)):
            raise ValueError("libraries are sorted by name and differ")
        if list(self.operator_domains) != sorted(set(self.operator_domains)):
            raise ValueError("operator domains are sorted and differ")
        if self.operator_domains and not self.libraries:
            raise ValueError("operators of other domains need a library that brings them")
        if RESERVED_DOMAINS & set(self.operator_domains):
            raise ValueError("a library adds no operators to a domain of the runtime")

    @property
    def graph(self) -> Payload:
        """The payload that holds the ONNX graph."""
        return next(p for p in self.payloads if p.role == "graph")

    @property
    def golden(self) -> Payload | None:
        """The payload that holds inputs and expected outputs, where there is one."""
        return next((p for p in self.payloads if p.role == "golden"), None)


def ciphertext_size(plaintext_bytes: int) -> int:
    """Return the size of the payload file: header, full chunks, and a last chunk that is always short."""
    return HEADER_BYTES + plaintext_bytes + TAG_BYTES * (plaintext_bytes // CHUNK_BYTES + 1)
