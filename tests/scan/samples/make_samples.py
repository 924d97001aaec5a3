"""Makes the sample files in this folder with the writers that real models come from. Not run by the tests.

python make_samples.py torch     # torch 2.13.0
python make_samples.py numpy     # numpy 2.4.6, joblib 1.5, scikit-learn 1.7, safetensors 0.6
python make_samples.py keras     # keras 3 on the torch backend, h5py
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent


def make_torch() -> None:
    import torch

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    torch.save(net.state_dict(), HERE / "state_dict.pt")
    torch.save(net.state_dict(), HERE / "state_dict_legacy.pth", _use_new_zipfile_serialization=False)
    torch.save(net, HERE / "whole_module.pt")
    torch.save(
        {"half": torch.ones(3).half(), "flags": torch.tensor([True]), "epoch": 3, "name": "x"}, HERE / "mixed.pt"
    )
    program = torch.jit.trace(torch.nn.Identity(), torch.ones(3))
    program = torch.jit.script(program)
    program.define("def scaled(self, x):\n    return x * 2 + torch.ones(3)\n")  # text: no path of this machine
    program.save(HERE / "torchscript.pt")


def make_numpy() -> None:
    import joblib
    import numpy as np
    from safetensors.numpy import save_file
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    weights = rng.normal(size=(3, 4)).astype(np.float32)
    np.save(HERE / "array.npy", weights)
    np.save(HERE / "records.npy", np.array([(1, 2.0, "a")], dtype=[("n", "<i4"), ("x", "<f8", (1,)), ("s", "<U3")]))
    np.save(HERE / "objects.npy", np.array([{"a": 1}, None, "text"], dtype=object), allow_pickle=True)
    np.savez(HERE / "arrays.npz", weights=weights, bias=np.zeros(4))
    np.savez_compressed(HERE / "arrays_deflated.npz", weights=weights, bias=np.zeros(4))
    arrays = {"weights": weights, "labels": np.array(["a", "bc"]), "objects": np.array([1, "x"], dtype=object)}
    joblib.dump(arrays, HERE / "arrays.joblib")
    for name in ("zlib", "gzip", "bz2", "xz", "lzma"):
        joblib.dump(arrays, HERE / f"arrays_{name}.joblib", compress=(name, 3))
    joblib.dump(arrays, HERE / "arrays_lz4.joblib", compress=("lz4", 3))
    joblib.dump(LogisticRegression().fit(weights, [0, 1, 0]), HERE / "sklearn.joblib")
    save_file({"weights": weights, "bias": np.zeros(4, np.float16)}, HERE / "weights.safetensors", {"format": "np"})


def make_keras() -> None:
    import keras

    layers = [keras.Input((3,)), keras.layers.Dense(2, activation="relu")]
    keras.Sequential(layers).save(HERE / "dense.keras")
    keras.Sequential(layers).save(HERE / "dense.h5")
    square = keras.layers.Lambda(eval(compile("lambda x: x * x", "square", "eval")))  # noqa: S307 - no path of this machine
    keras.Sequential([*layers, square]).save(HERE / "lambda.keras")
    keras.Sequential([*layers, square]).save(HERE / "lambda.h5")


def make_gguf() -> None:
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(HERE / "weights.gguf", "llama")
    writer.add_chat_template("{% for m in messages %}{{ m.content }}{% endfor %}")
    writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
    writer.add_tensor("w", np.arange(8, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    {"torch": make_torch, "numpy": make_numpy, "keras": make_keras, "gguf": make_gguf}[sys.argv[1]]()
