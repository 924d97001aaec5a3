"""The names `pickle_names` decides by. Every list says why its entries are in it."""

from __future__ import annotations

import _compat_pickle
from typing import Final

# What Python 2 called things; the unpickler renames them below protocol 3.
PYTHON2_MODULES: Final[dict[str, str]] = dict(_compat_pickle.IMPORT_MAPPING)
PYTHON2_NAMES: Final[dict[tuple[str, str], tuple[str, str]]] = dict(_compat_pickle.NAME_MAPPING)

# Constructors of plain data. Not `type`, `object.__getattribute__`, `map`, `filter`, `getattr` or `open`.
HARMLESS_BUILTINS: Final = frozenset(
    {
        "bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "object", "range", "set",
        "slice", "str", "tuple", "Ellipsis", "NotImplemented", "NoneType",
    }
)  # fmt: skip

_TORCH_STORAGES: Final = (
    "BFloat16Storage", "BoolStorage", "ByteStorage", "CharStorage", "ComplexDoubleStorage", "ComplexFloatStorage",
    "DoubleStorage", "FloatStorage", "HalfStorage", "IntStorage", "LongStorage", "QInt32Storage", "QInt8Storage",
    "QUInt2x4Storage", "QUInt4x2Storage", "QUInt8Storage", "ShortStorage", "Size", "Tensor", "device", "finfo",
)  # fmt: skip
_TORCH_REBUILDERS: Final = (
    "_rebuild_device_tensor_from_cpu_tensor", "_rebuild_device_tensor_from_numpy", "_rebuild_meta_tensor_no_storage",
    "_rebuild_nested_tensor", "_rebuild_parameter", "_rebuild_parameter_with_state", "_rebuild_qtensor",
    "_rebuild_sparse_csr_tensor", "_rebuild_sparse_tensor", "_rebuild_tensor", "_rebuild_tensor_v2",
    "_rebuild_tensor_v3",
)  # fmt: skip
# Each returns its argument; TorchScript archives mark typed lists with them.
_TORCH_SCRIPT_TAGS: Final = (
    "build_boollist",
    "build_doublelist",
    "build_intlist",
    "build_tensorlist",
    "restore_type_tag",
)
_NUMPY_DTYPES: Final = tuple(
    f"{name}DType"
    for name in (
        "Bool", "Bytes", "Complex128", "Complex64", "DateTime64", "Float16", "Float32", "Float64", "Int16", "Int32",
        "Int64", "Int8", "LongDouble", "Object", "Str", "TimeDelta64", "UInt16", "UInt32", "UInt64", "UInt8", "Void",
    )
)  # fmt: skip

# Exact names that only build tensors and plain collections: what PyTorch's own weights_only loader lets through, less
# what calls a function it is given, and numpy's array reconstruction.
ALLOWED: Final = frozenset(
    {
        ("_codecs", "encode"),  # how protocol 2 writes bytes; its argument is checked
        ("collections", "OrderedDict"),
        ("joblib.numpy_pickle", "NumpyArrayWrapper"),
        ("collections", "defaultdict"),
        ("collections", "Counter"),
        ("collections", "deque"),
        ("copyreg", "_reconstructor"),
        ("datetime", "date"),
        ("datetime", "datetime"),
        ("datetime", "timedelta"),
        ("datetime", "timezone"),
        ("decimal", "Decimal"),
        ("fractions", "Fraction"),
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        ("numpy", "bool_"),
        *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
        *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
        *(("numpy.dtypes", name) for name in _NUMPY_DTYPES),
        *(("torch", name) for name in _TORCH_STORAGES),
        *(("torch.jit._pickle", name) for name in _TORCH_SCRIPT_TAGS),
        *(("torch._utils", name) for name in _TORCH_REBUILDERS),
        ("torch.nn.parameter", "Parameter"),
        ("torch.nn.parameter", "Buffer"),
        ("torch.storage", "TypedStorage"),
        ("torch.storage", "UntypedStorage"),
        ("torch.serialization", "_get_layout"),
    }
)
ALLOWED_DTYPES: Final = frozenset(
    {
        "bfloat16", "bool", "complex128", "complex32", "complex64", "float16", "float32", "float64", "float8_e4m3fn",
        "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "int16", "int32", "int64", "int8", "qint32", "qint8",
        "quint2x4", "quint4x2", "quint8", "uint16", "uint32", "uint64", "uint8", "per_tensor_affine",
        "per_channel_affine", "per_tensor_symmetric", "per_channel_symmetric", "strided", "sparse_coo", "sparse_csr",
    }
)  # fmt: skip

# Standard library modules whose public names are data types: unknown instead of forbidden.
DATA_MODULES: Final = frozenset(
    {
        "__future__", "_collections", "_datetime", "_decimal", "array", "collections", "dataclasses", "datetime",
        "decimal", "enum", "fractions", "ipaddress", "numbers", "random", "statistics", "string", "struct",
        "zoneinfo", "math", "cmath", "re", "_random", "_codecs", "copyreg", "heapq", "itertools", "typing", "abc",
        "pathlib", "argparse", "weakref", "graphlib", "hashlib", "functools", "uuid", "logging",
    }
)  # fmt: skip

# Names in modules that are otherwise unknown. Each has a published way to run, load, open or reach.
FORBIDDEN_NAMES: Final = frozenset(
    {
        ("functools", "partial"),  # carries a call past those who look at REDUCE
        ("functools", "partialmethod"),
        ("functools", "reduce"),  # reduce(getattr, ...)
        ("functools", "singledispatch"),
        ("functools", "cached_property"),
        ("collections", "namedtuple"),  # compiles text
        ("collections", "_sys"),
        ("dataclasses", "make_dataclass"),  # likewise
        ("dataclasses", "_create_fn"),
        ("enum", "_make_class_unpicklable"),
        ("enum", "global_enum"),
        ("typing", "get_type_hints"),  # evaluates strings
        ("typing", "ForwardRef"),
        ("typing", "_eval_type"),
        ("random", "_test_generator"),  # calls what it is given
        ("itertools", "starmap"),
        ("itertools", "accumulate"),
        ("re", "Scanner"),
        ("argparse", "FileType"),
        ("logging", "FileHandler"),
        ("logging", "Handler"),
        ("logging", "os"),
        ("uuid", "_get_command_stdout"),
        ("uuid", "getnode"),
        ("hashlib", "file_digest"),
        ("copyreg", "add_extension"),
        ("copyreg", "pickle"),
        ("copyreg", "constructor"),
        ("_codecs", "lookup"),
        ("_codecs", "register"),
        ("weakref", "finalize"),
        ("weakref", "WeakMethod"),
        ("torch", "load"),
        ("torch", "compile"),
        ("torch.serialization", "load"),
        ("torch.serialization", "_load"),
        ("torch.serialization", "_legacy_load"),
        ("torch.utils.collect_env", "run"),
        ("torch.utils.data.datapipes.utils.decoder", "basichandlers"),
        ("numpy", "load"),
        ("numpy", "save"),
        ("numpy", "savetxt"),
        ("numpy", "savez"),
        ("numpy", "fromfile"),
        ("numpy", "genfromtxt"),
        ("numpy", "loadtxt"),
        ("numpy", "memmap"),
        ("numpy", "frompyfunc"),
        ("numpy", "vectorize"),
        ("numpy", "fromfunction"),
        ("numpy", "apply_along_axis"),
        ("numpy", "piecewise"),
        ("numpy", "DataSource"),
        ("joblib", "load"),
        ("joblib", "delayed"),
        ("joblib.numpy_pickle", "load"),
        ("pandas", "read_pickle"),
        ("pandas", "eval"),
        ("tensorflow", "py_function"),
        ("tensorflow", "numpy_function"),
        ("tensorflow", "load_library"),
        ("tensorflow", "load_op_library"),
        ("sklearn.utils._testing", "assert_run_python_script"),
    }
)

# Modules and members below them that run, load or fetch.
FORBIDDEN_PREFIXES: Final = (
    "IPython", "_pytest", "aiohttp", "boto3", "botocore", "cffi", "cloudpickle", "dill", "execnet", "fabric",
    "fickling", "fsspec", "gevent", "git", "grpc", "hickle", "httplib2", "httpx", "huggingface_hub", "invoke",
    "jinja2", "joblib.externals", "joblib.memory", "jsonpickle", "keras.models", "keras.saving", "llvmlite", "mako",
    "nose", "numba", "numpy.ctypeslib", "numpy.distutils", "numpy.f2py", "numpy.lib.format", "numpy.lib.npyio",
    "numpy.lib._npyio_impl", "numpy.testing", "numpy._core._methods", "numpy.core._methods",
    "pandas.compat.pickle_compat", "pandas.core.computation", "pandas.io", "paramiko", "pexpect", "pip",
    "pkg_resources", "plumbum", "psutil", "ptyprocess", "py", "pytest", "ray", "requests", "scipy.io",
    "scipy._lib._ccallback", "setuptools", "sh", "six.moves", "smart_open", "subprocess32", "sympy", "tensorflow.io",
    "tensorflow.keras.models", "tensorflow.python", "tensorflow.saved_model", "torch._C._jit", "torch._dynamo",
    "torch._export", "torch._functorch", "torch._inductor", "torch._lazy", "torch._ops", "torch.classes",
    "torch.compiler", "torch.cuda._utils", "torch.distributed", "torch.export", "torch.fx", "torch.hub", "torch.jit",
    "torch.multiprocessing", "torch.ops", "torch.package", "torch.testing", "torch.utils._config_module",
    "torch.utils.bottleneck", "torch.utils.cpp_extension", "torch.utils.data.datapipes", "torch.utils.hipify",
    "torch.utils.model_dump", "torch.utils.show_pickle", "torch.utils.tensorboard", "torch.utils.viz", "torch.xpu",
    "tornado", "twisted", "urllib3", "wget", "websocket", "xonsh", "yaml",
)  # fmt: skip

# Left the standard library before the Python that scans, but not the one that loads.
REMOVED_MODULES: Final = frozenset(
    {
        "_bootsubprocess", "_xxinterpchannels", "_xxsubinterpreters", "asynchat", "asyncore", "audioop", "binhex",
        "cPickle", "cStringIO", "cgi", "cgitb", "chunk", "commands", "compiler", "concurrent", "copy_reg", "crypt",
        "distutils", "dl", "dummy_thread", "formatter", "ftplib", "httplib", "imghdr", "imp", "ihooks", "lib2to3",
        "mailcap", "mhlib", "msilib", "new", "nis", "nntplib", "ossaudiodev", "parser", "pipes", "popen2", "posixfile",
        "pyexpat", "rexec", "smtpd", "sndhdr", "spwd", "sunau", "symbol", "telnetlib", "test", "thread", "tkinter",
        "urllib2", "urlparse", "user", "uu", "xdrlib", "xmlrpclib", "_interpreters", "_interpchannels", "_interpqueues",
        "_pyrepl", "_osx_support", "_aix_support", "_posixsubprocess", "sitecustomize", "usercustomize", "_testcapi",
        "_testinternalcapi", "_winapi", "_ios_support", "_android_support", "compression", "annotationlib",
        "nt", "winreg", "_winreg", "msvcrt", "idlelib", "ensurepip", "venv", "turtledemo", "dbm", "_sqlite3",
    }
)  # fmt: skip

# A module of this name inside a dotted path is reached through whoever imported it.
TELLING_NAMES: Final = frozenset(
    {
        "os", "sys", "subprocess", "builtins", "importlib", "posix", "nt", "shutil", "ctypes", "socket", "pickle",
        "_pickle", "marshal", "runpy", "pty", "imp", "popen", "system", "eval", "exec", "execfile", "runstring",
        "__import__", "import_module", "getattr", "setattr", "attrgetter", "methodcaller", "f2py", "_os", "_sys",
        "_subprocess", "urllib", "requests", "webbrowser", "operator", "_operator", "types", "inspect",
    }
)  # fmt: skip
