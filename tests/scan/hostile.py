"""Hostile model files, assembled by hand from opcodes and headers; the payloads are `true` and names that do nothing.

Each is a way past a scanner that has been published (the advisory is named) or that the format invites. Shared by the
tests and by `benchmarks/scan.py`, which shows the same files to other scanners.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

MALICIOUS, SUSPICIOUS, NOT_SCANNED = "malicious", "suspicious", "not scanned"


@dataclass(frozen=True, slots=True)
class Sample:
    """A file: its name, its content, and the verdict it deserves."""

    title: str
    file_name: str
    content: bytes
    verdict: str


# -- opcodes -----------------------------------------------------------------------------------------------------------


def short(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogatepass")
    return b"\x8c" + bytes([len(raw)]) + raw


def name_of(module: str, name: str) -> bytes:
    """Import by STACK_GLOBAL, as protocol 4 does."""
    return short(module) + short(name) + b"\x93"


def old_name(module: str, name: str) -> bytes:
    """Import by GLOBAL, as protocols 0 to 3 do."""
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def call(module: str, name: str, *arguments: str) -> bytes:
    """A whole protocol 4 pickle that calls a name with texts."""
    return b"\x80\x04" + name_of(module, name) + b"(" + b"".join(map(short, arguments)) + b"tR."


SYSTEM = call("os", "system", "true")
OLD_SYSTEM = old_name("os", "system") + b"(S'true'\ntR."

# Callables with a published way to run code; most come from advisories of picklescan and fickling.
GADGETS = (
    ("posix", "system"), ("nt", "system"), ("os", "popen"), ("os", "execv"), ("subprocess", "Popen"),
    ("subprocess", "check_output"), ("_posixsubprocess", "fork_exec"), ("builtins", "eval"), ("builtins", "exec"),
    ("builtins", "compile"), ("builtins", "__import__"), ("builtins", "getattr"), ("builtins", "open"),
    ("builtins", "breakpoint"), ("builtins", "globals"), ("builtins", "map"), ("sys", "exit"), ("sys", "modules"),
    ("socket", "create_connection"), ("shutil", "rmtree"), ("runpy", "_run_code"), ("runpy", "run_path"),
    ("importlib", "import_module"), ("importlib.util", "spec_from_file_location"), ("ctypes", "CDLL"),
    ("pickle", "loads"), ("_pickle", "loads"), ("marshal", "loads"), ("types", "CodeType"), ("types", "FunctionType"),
    ("operator", "attrgetter"), ("operator", "methodcaller"), ("_operator", "attrgetter"), ("functools", "partial"),
    ("webbrowser", "open"), ("http.client", "HTTPSConnection"), ("urllib.request", "urlopen"), ("requests", "get"),
    ("asyncio.unix_events", "_UnixSubprocessTransport._start"), ("multiprocessing.util", "spawnv_passfds"),
    ("pty", "spawn"), ("code", "InteractiveInterpreter.runcode"), ("timeit", "timeit"), ("cProfile", "runctx"),
    ("cProfile", "run"), ("profile", "run"), ("pdb", "run"), ("bdb", "Bdb.run"), ("trace", "Trace.runctx"),
    ("idlelib.run", "Executive.runcode"), ("idlelib.autocomplete", "AutoComplete.get_entity"),
    ("idlelib.pyshell", "ModifiedInterpreter.runcommand"), ("lib2to3.pgen2.grammar", "Grammar.loads"),
    ("lib2to3.pgen2.pgen", "ParserGenerator.make_label"), ("doctest", "debug_script"), ("ensurepip", "_run_pip"),
    ("pip", "main"), ("pip._internal.cli.main", "main"), ("venv", "create"), ("pkgutil", "resolve_name"),
    ("pydoc", "pipepager"), ("pydoc", "locate"), ("uuid", "_get_command_stdout"), ("imaplib", "IMAP4_stream"),
    ("_osx_support", "_read_output"), ("_aix_support", "_read_cmd_output"), ("_pyrepl.pager", "pipe_pager"),
    ("_interpreters", "run_string"), ("_xxsubinterpreters", "run_string"),
    ("test.support.script_helper", "assert_python_ok"), ("distutils.file_util", "write_file"),
    ("logging", "FileHandler"), ("logging.config", "fileConfig"), ("_io", "FileIO"), ("io", "open_code"),
    ("pathlib", "os.system"), ("site", "addsitedir"), ("atexit", "register"), ("sqlite3", "connect"), ("dbm", "open"),
    ("shelve", "open"), ("smtplib", "SMTP"), ("ftplib", "FTP"), ("zipimport", "zipimporter"),
    ("py_compile", "compile"), ("compileall", "compile_dir"), ("gc", "get_objects"), ("threading", "Thread"),
    ("signal", "signal"), ("tempfile", "mktemp"), ("mmap", "mmap"), ("fileinput", "input"),
    ("collections", "namedtuple"), ("dataclasses", "make_dataclass"), ("typing", "get_type_hints"),
    ("numpy.testing._private.utils", "runstring"), ("numpy.f2py.crackfortran", "getlincoef"),
    ("numpy.f2py.crackfortran", "_eval_length"), ("numpy", "load"), ("numpy.ctypeslib", "load_library"),
    ("torch", "load"), ("torch.hub", "load"), ("torch.serialization", "load"),
    ("torch.jit.unsupported_tensor_ops", "execWrapper"), ("torch.utils.bottleneck.__main__", "run_cprofile"),
    ("torch.utils.collect_env", "run"), ("torch._dynamo.guards", "GuardBuilder.get"),
    ("torch._inductor.codecache", "compile_file"),
    ("torch.fx.experimental.symbolic_shapes", "ShapeEnv.evaluate_guards_expression"),
    ("torch.utils._config_module", "ConfigModule.load_config"),
    ("torch.utils.data.datapipes.utils.decoder", "basichandlers"), ("torch.utils.cpp_extension", "load_inline"),
    ("torch.distributed.rpc", "rpc_sync"), ("torch.ops", "load_library"), ("torch", "os.system"),
    ("numpy", "os.system"), ("collections", "_sys.modules"), ("collections", "OrderedDict.__init__.__globals__"),
    ("cloudpickle.cloudpickle", "_make_function"), ("cloudpickle.cloudpickle", "subimport"),
    ("dill._dill", "_create_code"), ("joblib", "load"), ("pandas", "read_pickle"), ("pandas.io.common", "urlopen"),
    ("sympy", "sympify"), ("yaml", "unsafe_load"), ("jinja2", "Template"),
    ("IPython.core.interactiveshell", "InteractiveShell"), ("keras.models", "load_model"),
    ("tensorflow", "load_op_library"),
)  # fmt: skip


def pickles() -> Iterator[Sample]:
    """Pickles of every trick."""
    for module, name in GADGETS:
        yield Sample(f"calls {module}.{name}", "model.pkl", call(module, name, "x"), MALICIOUS)
    yield Sample("protocol 0, GLOBAL", "model.pkl", OLD_SYSTEM, MALICIOUS)
    yield Sample("protocol 0, INST", "model.pkl", b"(S'true'\nios\nsystem\n.", MALICIOUS)
    yield Sample("protocol 1, OBJ", "model.pkl", b"(" + old_name("os", "system") + b"S'true'\no.", MALICIOUS)
    yield Sample(
        "protocol 2, NEWOBJ",
        "model.pkl",
        b"\x80\x02" + old_name("subprocess", "Popen") + b"U\x04true\x85\x81.",
        MALICIOUS,
    )
    yield Sample(
        "protocol 4, NEWOBJ_EX",
        "model.pkl",
        b"\x80\x04" + name_of("subprocess", "Popen") + short("true") + b"\x85}\x92.",
        MALICIOUS,
    )
    yield Sample(
        "protocol 5, in a frame",
        "model.pkl",
        b"\x80\x05\x95" + struct.pack("<Q", len(SYSTEM) - 2) + SYSTEM[2:],
        MALICIOUS,
    )
    yield Sample(
        "names by way of the memo",
        "model.pkl",
        b"\x80\x04"
        + short("os")
        + b"\x94"
        + short("system")
        + b"\x94N00"
        + b"h\x00h\x01\x93"
        + short("true")
        + b"\x85R.",
        MALICIOUS,
    )
    yield Sample(
        "memo filled out of order (picklescan 0.0.12)",
        "model.pkl",
        b"\x80\x04"
        + short("os")
        + b"q\x09"
        + short("math")
        + b"q\x05"
        + b"h\x09"
        + short("system")
        + b"\x93"
        + short("true")
        + b"\x85R.",
        MALICIOUS,
    )
    yield Sample(
        "names duplicated and popped",
        "model.pkl",
        b"\x80\x04" + short("os") + b"2" + short("sqrt") + b"0" + short("system") + b"\x93" + short("true") + b"\x85R.",
        MALICIOUS,
    )
    yield Sample(
        "name in raw unicode escapes", "model.pkl", b"\x80\x04V\\u006fs\nVs\\u0079stem\n\x93V true\n\x85R.", MALICIOUS
    )
    yield Sample(
        "name in string escapes", "model.pkl", b"\x80\x04S'\\x6f\\163'\nS'system'\n\x93S'true'\n\x85R.", MALICIOUS
    )
    yield Sample(
        "name that is computed",
        "model.pkl",
        b"\x80\x04"
        + name_of("collections", "OrderedDict")
        + b")R"
        + short("system")
        + b"\x93"
        + short("true")
        + b"\x85R.",
        MALICIOUS,
    )
    yield Sample(
        "Python 2 name for eval",
        "model.pkl",
        b"\x80\x02" + old_name("__builtin__", "eval") + b"U\x011\x85R.",
        MALICIOUS,
    )
    yield Sample(
        "Python 2 module commands",
        "model.pkl",
        b"\x80\x02" + old_name("commands", "getoutput") + b"U\x04true\x85R.",
        MALICIOUS,
    )
    yield Sample(
        "dotted name in STACK_GLOBAL", "model.pkl", call("torch", "serialization.os.system", "true"), MALICIOUS
    )
    yield Sample(
        "dotted module in GLOBAL",
        "model.pkl",
        b"\x80\x04" + old_name("torch.serialization", "os.system") + short("true") + b"\x85R.",
        MALICIOUS,
    )
    yield Sample(
        "name that is no ASCII before the payload",
        "model.pkl",
        b"\x80\x04" + old_name("m\u00f6del", "K\u00fcche") + b"0" + SYSTEM[2:],
        MALICIOUS,
    )
    yield Sample("bytes in a name that are no UTF-8", "model.pkl", b"\x80\x02c\xff\xfe\nx\n0" + OLD_SYSTEM, MALICIOUS)
    yield Sample("breaks off after the call (broken pickle, CVE-2025-1889)", "model.pkl", SYSTEM[:-1], MALICIOUS)
    yield Sample("breaks off after the call, protocol 0", "model.pkl", OLD_SYSTEM[:-1], MALICIOUS)
    yield Sample(
        "unknown opcode after the call (nullifAI, GHSA-9gvj-pp9x-gcfr)",
        "model.pkl",
        SYSTEM[:-1] + b"\xff\xff.",
        MALICIOUS,
    )
    yield Sample("a harmless pickle before it", "model.pkl", b"\x80\x04]." + SYSTEM, MALICIOUS)
    yield Sample("eleven harmless pickles before it", "model.pkl", b"\x80\x04]." * 11 + SYSTEM, MALICIOUS)
    yield Sample("zeros between two pickles", "model.pkl", b"\x80\x04]." + bytes(100) + SYSTEM, SUSPICIOUS)
    yield Sample("junk behind a harmless pickle", "model.pkl", b"\x80\x04].\xf0\xf1 not a pickle", SUSPICIOUS)
    yield Sample(
        "a pickle in a bytes constant", "model.pkl", b"\x80\x04C" + bytes([len(SYSTEM)]) + SYSTEM + b".", MALICIOUS
    )
    inner = b"\x80\x04B" + struct.pack("<I", len(SYSTEM)) + SYSTEM + b"."
    yield Sample(
        "a pickle in a pickle in a pickle",
        "model.pkl",
        b"\x80\x04B" + struct.pack("<I", len(inner)) + inner + b".",
        MALICIOUS,
    )
    yield Sample(
        "a protocol 0 pickle in a bytes constant",
        "model.pkl",
        b"\x80\x04C" + bytes([len(OLD_SYSTEM)]) + OLD_SYSTEM + b".",
        MALICIOUS,
    )
    yield Sample("only imports, never calls", "model.pkl", b"\x80\x04" + name_of("os", "system") + b".", MALICIOUS)
    yield Sample(
        "sets what it imports (BUILD on a module's attribute)",
        "model.pkl",
        b"\x80\x04" + name_of("torch.nn", "Module") + b"}" + short("forward") + b"Nsb.",
        MALICIOUS,
    )
    yield Sample(
        "writes into os.environ",
        "model.pkl",
        b"\x80\x04" + name_of("os", "environ") + short("LD_PRELOAD") + short("x") + b"s.",
        MALICIOUS,
    )
    yield Sample(
        "BUILD hands the call to __setstate__",
        "model.pkl",
        b"\x80\x04" + name_of("collections", "defaultdict") + name_of("os", "system") + b"\x85R}b.",
        MALICIOUS,
    )
    yield Sample("extension registry", "model.pkl", b"\x80\x02\x82\x01)R.", SUSPICIOUS)
    yield Sample("persistent id in a plain pickle", "model.pkl", b"Pos.system\n.", SUSPICIOUS)
    yield Sample(
        "a class of an unknown package",
        "model.pkl",
        b"\x80\x04" + name_of("acme.models", "Net") + b")\x81.",
        SUSPICIOUS,
    )
    yield Sample(
        "calls the result of a call",
        "model.pkl",
        b"\x80\x04" + name_of("collections", "OrderedDict") + b")R)R.",
        SUSPICIOUS,
    )
    yield Sample(
        "reserves a terabyte",
        "model.pkl",
        b"\x80\x04" + name_of("builtins", "bytearray") + b"\x8a\x06" + (1 << 40).to_bytes(6, "little") + b"\x85R.",
        SUSPICIOUS,
    )
    yield Sample(
        "unpacks by codec",
        "model.pkl",
        b"\x80\x04" + name_of("_codecs", "encode") + short("x") + short("zip") + b"\x86R.",
        SUSPICIOUS,
    )
    yield Sample("memo entry that was never made", "model.pkl", b"\x80\x04h\x07.", SUSPICIOUS)
    yield Sample(
        "name cut by the end of a frame (C unpickler drops the first part)",
        "model.pkl",
        b"\x80\x04\x95" + (10).to_bytes(8, "little") + b"cacme.net.os\nsystem\n" + short("true") + b"\x85R.",
        MALICIOUS,
    )
    yield Sample("frame longer than the file", "model.pkl", b"\x80\x04\x95" + b"\xff" * 8 + SYSTEM[2:], MALICIOUS)
    yield Sample("pickle under another name (CVE-2025-10155)", "model.bin", SYSTEM, MALICIOUS)
    yield Sample("pickle that calls itself a PyTorch zip", "model.pt", SYSTEM, MALICIOUS)
    yield Sample("pickle that calls itself ONNX", "model.onnx", SYSTEM, MALICIOUS)
    yield Sample("pickle that calls itself text", "readme.txt", OLD_SYSTEM, MALICIOUS)
    yield Sample("pickle without any suffix", "model", OLD_SYSTEM, MALICIOUS)


# -- containers --------------------------------------------------------------------------------------------------------


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return stream.getvalue()


def torch_zip(pickle: bytes, method: int = zipfile.ZIP_STORED, **more: bytes) -> bytes:
    members = {"archive/data.pkl": pickle, "archive/version": b"3\n", "archive/byteorder": b"little"}
    return zipped(members | {f"archive/{name}": content for name, content in more.items()}, method)


def patched(archive: bytes, signature: bytes, offset: int, value: bytes) -> bytes:
    """Overwrite bytes at `offset` in every header with that signature."""
    changed, at = bytearray(archive), archive.find(signature)
    while at >= 0:
        changed[at + offset : at + offset + len(value)] = value
        at = archive.find(signature, at + 4)
    return bytes(changed)


LOCAL, CENTRAL = b"PK\x03\x04", b"PK\x01\x02"


def containers() -> Iterator[Sample]:
    """Archives and compressed streams."""
    plain = torch_zip(SYSTEM)
    yield Sample("PyTorch zip", "model.pt", plain, MALICIOUS)
    yield Sample("PyTorch zip, deflated", "model.pt", torch_zip(SYSTEM, zipfile.ZIP_DEFLATED), MALICIOUS)
    yield Sample(
        "PyTorch zip, wrong checksum (CVE-2025-10156)",
        "model.pt",
        patched(patched(plain, CENTRAL, 16, b"\1\2\3\4"), LOCAL, 14, b"\1\2\3\4"),
        MALICIOUS,
    )
    yield Sample(
        "PyTorch zip, marked encrypted (CVE-2025-1944)",
        "model.pt",
        patched(patched(plain, CENTRAL, 8, b"\1\0"), LOCAL, 6, b"\1\0"),
        MALICIOUS,
    )
    yield Sample(
        "PyTorch zip, flags only in one header (CVE-2025-1945)",
        "model.pt",
        patched(plain, CENTRAL, 8, b"\x01\0"),
        MALICIOUS,
    )
    yield Sample(
        "PyTorch zip, local name differs (CVE-2025-1944)",
        "model.pt",
        plain.replace(b"archive/data.pkl", b"archive/data.txt", 1),
        MALICIOUS,
    )
    yield Sample(
        "PyTorch zip, member without .pkl suffix", "model.pt", torch_zip(b"\x80\x04].", extra=SYSTEM), MALICIOUS
    )
    yield Sample("PyTorch zip with bytes before it", "model.pt", b"junk" * 20 + plain, MALICIOUS)
    yield Sample("PyTorch zip behind a pickle", "model.pt", b"\x80\x04]." + plain, MALICIOUS)
    yield Sample(
        "PyTorch zip with a second pickle", "model.pt", torch_zip(b"\x80\x04].", **{"constants.pkl": SYSTEM}), MALICIOUS
    )
    yield Sample(
        "PyTorch tensor that is not there",
        "model.pt",
        torch_zip(
            b"\x80\x02(X\x07\x00\x00\x00storage"
            + old_name("torch", "FloatStorage")
            + b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ."
        ),
        SUSPICIOUS,
    )
    yield Sample(
        "PyTorch data no tensor uses", "model.pt", torch_zip(b"\x80\x02].", **{"data/0": b"hidden"}), SUSPICIOUS
    )
    doubled = io.BytesIO()
    with zipfile.ZipFile(doubled, "w") as archive:
        archive.writestr(zipfile.ZipInfo("archive/data.pkl"), SYSTEM)
        archive.writestr(zipfile.ZipInfo("archive/data.txt"), b"\x80\x04].")
    yield Sample("zip with one name twice", "model.pt", doubled.getvalue().replace(b"data.txt", b"data.pkl"), MALICIOUS)
    yield Sample(
        "zip in a zip", "models.zip", zipped({"a.zip": zipped({"b.pkl": SYSTEM})}, zipfile.ZIP_DEFLATED), MALICIOUS
    )
    nested = SYSTEM
    for _ in range(12):
        nested = zipped({"a.zip": nested})
    yield Sample("zip twelve deep", "models.zip", nested, NOT_SCANNED)
    yield Sample("zip slip", "models.zip", zipped({"../../etc/cron.d/x": b"text"}), MALICIOUS)
    yield Sample("zip with an absolute name", "models.zip", zipped({"/etc/passwd": b"x"}), MALICIOUS)
    yield Sample("zip with a drive letter", "models.zip", zipped({"c:\\x.txt": b"x"}), MALICIOUS)
    link = zipfile.ZipInfo("weights.txt")
    link.external_attr = 0o120777 << 16
    link.create_system = 3
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    yield Sample("zip with a symbolic link", "models.zip", stream.getvalue(), SUSPICIOUS)
    hidden = zipped({"a.txt": b"text"})
    at = hidden.find(CENTRAL)
    end = bytearray(hidden[at:])
    end[-6:-2] = struct.pack("<I", at + len(SYSTEM))
    yield Sample("zip with bytes between the members", "models.zip", hidden[:at] + SYSTEM + bytes(end), SUSPICIOUS)
    yield Sample("zip bomb", "models.zip", zipped({"a.txt": bytes(64 << 20)}, zipfile.ZIP_DEFLATED), SUSPICIOUS)
    yield Sample("zip packed with bzip2", "models.zip", zipped({"a.pkl": SYSTEM}, zipfile.ZIP_BZIP2), NOT_SCANNED)
    yield Sample("zip without its directory", "models.zip", plain[: plain.find(CENTRAL)], SUSPICIOUS)
    for name, pack in (("zlib", zlib.compress), ("gzip", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)):
        yield Sample(f"joblib packed with {name}", "model.joblib", pack(SYSTEM), MALICIOUS)
    yield Sample("joblib packed with lzma", "model.joblib", lzma.compress(SYSTEM, lzma.FORMAT_ALONE), MALICIOUS)
    yield Sample(
        "second gzip stream behind a harmless one",
        "model.pkl",
        gzip.compress(b"\x80\x04].") + gzip.compress(SYSTEM),
        MALICIOUS,
    )
    yield Sample("bzip2 bomb", "model.joblib", bz2.compress(bytes(40 << 20)), SUSPICIOUS)
    yield Sample("7z archive", "model.pkl", b"7z\xbc\xaf\x27\x1c\x00\x04" + bytes(64), NOT_SCANNED)
    yield Sample("lz4 stream", "model.joblib", b"\x04\x22\x4d\x18\x64\x40\xa7" + bytes(32), NOT_SCANNED)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in (("model.pkl", SYSTEM), ("../../x", b"text")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        info = tarfile.TarInfo("link")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    yield Sample("tar with a pickle, a slip and a link", "model.tar", stream.getvalue(), MALICIOUS)
    yield Sample("tar, gzipped", "model.tar.gz", gzip.compress(stream.getvalue()), MALICIOUS)


def npy(descr: str, body: bytes) -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': (1,), }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


def tensor_files() -> Iterator[Sample]:
    """Files that hold tensors."""
    yield Sample("NPY array of objects", "array.npy", npy("'|O'", SYSTEM), MALICIOUS)
    yield Sample(
        "NPY structured type with an object", "array.npy", npy("[('a', '<i4'), ('b', '|O8')]", SYSTEM), MALICIOUS
    )
    yield Sample("NPZ with an array of objects", "arrays.npz", zipped({"a.npy": npy("'|O'", SYSTEM)}), MALICIOUS)
    yield Sample("NPY with bytes behind the data", "array.npy", npy("'<i4'", b"\0" * 4 + SYSTEM), SUSPICIOUS)
    yield Sample("NPY with a call in its header", "array.npy", npy("__import__('os')", bytes(4)), SUSPICIOUS)
    yield Sample(
        "NPY with a shape that overflows",
        "array.npy",
        npy("'<i4'", bytes(4)).replace(b"(1,)", b"(9223372036854775807,)"),
        SUSPICIOUS,
    )

    def safetensors(header: object, body: bytes = b"", text: bytes | None = None) -> bytes:
        raw = text if text is not None else json.dumps(header).encode()
        return struct.pack("<Q", len(raw)) + raw + body

    def tensor(start: int, end: int) -> dict[str, object]:
        return {"dtype": "U8", "shape": [end - start], "data_offsets": [start, end]}

    yield Sample(
        "safetensors that share bytes",
        "m.safetensors",
        safetensors({"a": tensor(0, 4), "b": tensor(2, 6)}, bytes(6)),
        SUSPICIOUS,
    )
    yield Sample(
        "safetensors with a hole",
        "m.safetensors",
        safetensors({"a": tensor(0, 2), "b": tensor(4, 6)}, bytes(6)),
        SUSPICIOUS,
    )
    yield Sample(
        "safetensors with bytes behind",
        "m.safetensors",
        safetensors({"a": tensor(0, 4)}, bytes(4) + SYSTEM),
        SUSPICIOUS,
    )
    yield Sample(
        "safetensors out of bounds", "m.safetensors", safetensors({"a": tensor(0, 1 << 40)}, bytes(4)), SUSPICIOUS
    )
    inside = torch_zip(SYSTEM)
    yield Sample(
        "safetensors that is a zip from the end",
        "model.bin",
        safetensors({"a": tensor(0, len(inside))}, inside),
        MALICIOUS,
    )
    twice = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    yield Sample("safetensors with one name twice", "m.safetensors", safetensors(None, b"\0", twice), SUSPICIOUS)
    yield Sample(
        "safetensors nested deep",
        "m.safetensors",
        safetensors(None, b"", b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        SUSPICIOUS,
    )
    template = b"{{ ''.__class__.__mro__[1].__subclasses__() }}"
    entry = struct.pack("<Q", 23) + b"tokenizer.chat_template" + struct.pack("<IQ", 8, len(template)) + template
    yield Sample(
        "GGUF with a template that reaches out", "m.gguf", b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + entry, MALICIOUS
    )
    yield Sample("GGUF with a count that overflows", "m.gguf", b"GGUF" + struct.pack("<IQQ", 3, 1 << 62, 1), SUSPICIOUS)


def configurations() -> Iterator[Sample]:
    """Keras, TensorFlow, and what lies beside models."""
    lambda_layer = {
        "class_name": "Lambda",
        "config": {"function": {"class_name": "__lambda__", "config": {"code": "4wEAAAA" + "A" * 40}}},
    }
    foreign = {"module": "subprocess", "class_name": "Popen", "config": {"args": ["true"]}}
    reached = {
        "module": "keras.src.utils.file_utils",
        "class_name": "function",
        "config": "get_file",
        "registered_name": "function",
    }
    for title, layer, verdict in (
        ("Keras Lambda layer", lambda_layer, MALICIOUS),
        ("Keras layer that is a function of another module (CVE-2025-1550)", foreign, SUSPICIOUS),
        ("Keras layer that is a tool of Keras", reached, MALICIOUS),
    ):
        config = json.dumps({"module": "keras", "class_name": "Sequential", "config": {"layers": [layer]}}).encode()
        yield Sample(title, "m.keras", zipped({"metadata.json": b"{}", "config.json": config}), verdict)
    yield Sample(
        "HDF5 with a Lambda layer",
        "m.h5",
        b"\x89HDF\r\n\x1a\n" + bytes(40) + json.dumps(lambda_layer).encode(),
        MALICIOUS,
    )

    def field(number: int, body: bytes) -> bytes:
        return bytes([number << 3 | 2, len(body)]) + body

    for op, verdict in (("WriteFile", MALICIOUS), ("PyFunc", MALICIOUS), ("ReadFile", SUSPICIOUS)):
        node = field(1, field(1, b"n") + field(2, op.encode()))
        yield Sample(f"TensorFlow graph with {op}", "saved_model.pb", b"\x08\x01" + field(2, field(2, node)), verdict)
    yield Sample(
        "configuration that loads code", "config.json", b'{"auto_map": {"AutoModel": "modeling.Model"}}', SUSPICIOUS
    )
    yield Sample("YAML that makes objects", "config.yaml", b"a: !!python/object/apply:os.system ['true']\n", SUSPICIOUS)
    yield Sample("library beside the model", "libop.so", b"\x7fELF\x02\x01\x01" + bytes(60), SUSPICIOUS)
    yield Sample("library under a model's name", "model.onnx", b"\x7fELF\x02\x01\x01" + bytes(60), SUSPICIOUS)
    yield Sample("ONNX Runtime format", "model.ort", b"\x14\0\0\0ORTM" + bytes(60), NOT_SCANNED)
    yield Sample("TensorRT engine", "model.engine", b"ftrt" + bytes(60), NOT_SCANNED)


# -- ONNX --------------------------------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def part(number: int, content: bytes | str) -> bytes:
    raw = content.encode() if isinstance(content, str) else content
    return varint(number << 3 | 2) + varint(len(raw)) + raw


def count(number: int, value: int) -> bytes:
    return varint(number << 3) + varint(value)


def onnx_node(op: str, inputs: tuple[str, ...] = ("x",), domain: str = "", more: bytes = b"") -> bytes:
    named = b"".join(part(1, name) for name in inputs) + part(2, "y") + part(4, op) + more
    return part(1, named + (part(7, domain) if domain else b""))


def onnx_model(graph: bytes, more: bytes = b"") -> bytes:
    value = part(1, "x") + part(2, part(1, count(1, 1)))
    opset = part(8, count(2, 17))
    return count(1, 8) + part(7, graph + part(2, "g") + part(11, value) + part(12, part(1, "y"))) + opset + more


def external(location: str) -> bytes:
    entry = part(13, part(1, "location") + part(2, location))
    return part(5, count(1, 4) + count(2, 1) + part(8, "w") + entry + count(14, 1))


def onnx_models() -> Iterator[Sample]:
    """ONNX models; the graph around each trick is a valid one."""
    add = onnx_node("Add", ("x", "w"))
    for title, location, verdict in (
        ("a parent folder", "../../etc/passwd", MALICIOUS),
        ("an absolute path", "/etc/passwd", MALICIOUS),
        ("a memory address", "*/_ORT_MEM_ADDR_/*", MALICIOUS),
        ("a file that is not there", "weights.bin", NOT_SCANNED),
    ):
        yield Sample(f"ONNX with data in {title}", "model.onnx", onnx_model(add + external(location)), verdict)
    yield Sample("ONNX that calls Python", "model.onnx", onnx_model(onnx_node("PyOp", domain="pyopadd")), MALICIOUS)
    yield Sample(
        "ONNX that loads an engine", "model.onnx", onnx_model(onnx_node("EPContext", domain="com.microsoft")), MALICIOUS
    )
    yield Sample("ONNX with a custom operator", "model.onnx", onnx_model(onnx_node("Net", domain="acme")), SUSPICIOUS)
    yield Sample(
        "ONNX that configures its runtime",
        "model.onnx",
        onnx_model(onnx_node("Relu"), part(14, part(1, "ort_config") + part(2, "{}"))),
        SUSPICIOUS,
    )
    yield Sample("ONNX with bytes behind it", "model.onnx", onnx_model(onnx_node("Relu")) + SYSTEM, SUSPICIOUS)
    yield Sample(
        "ONNX with two graphs", "model.onnx", onnx_model(onnx_node("Relu"), part(7, onnx_node("Relu"))), SUSPICIOUS
    )
    weights = part(5, count(1, 2) + count(2, 7) + part(8, "w") + part(9, struct.pack("<qq", 1 << 18, 1 << 18)))
    yield Sample(
        "ONNX that asks for 256 GiB",
        "model.onnx",
        onnx_model(onnx_node("ConstantOfShape", ("w",)) + weights),
        SUSPICIOUS,
    )
    again = part(7, part(1, "a") + part(4, "F") + part(7, "local") + part(2, "c"))
    function = part(25, part(1, "F") + part(4, "a") + part(5, "c") + again + part(9, count(2, 17)) + part(10, "local"))
    imported = part(8, part(1, "local") + count(2, 1))
    yield Sample(
        "ONNX function that calls itself",
        "model.onnx",
        onnx_model(onnx_node("F", domain="local"), function + imported),
        SUSPICIOUS,
    )
    yield Sample(
        "ONNX in a zip with data outside",
        "models.zip",
        zipped({"m.onnx": onnx_model(add + external("../w"))}),
        MALICIOUS,
    )
    yield Sample("ONNX under another name", "model.bin", onnx_model(add + external("/etc/passwd")), MALICIOUS)


def corpus() -> list[Sample]:
    """Every hostile sample, in a fixed order; the titles are unique."""
    return [*pickles(), *containers(), *tensor_files(), *configurations(), *onnx_models()]
