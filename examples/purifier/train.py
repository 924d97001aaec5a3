"""Train a small purifier, which takes perturbations off: `python examples/purifier/train.py --out purifier.onnx`.

Needs the extra `eval` (torch, onnx) and some minutes on one core. Whether it is worth anything is for evaluate.py to
say, beside the chains that need no training; docs/restoration.md has the figures. Everything is seeded.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from pictures import disturbed, drawing, streets
from torch import Tensor, nn

SEED, STEPS, BATCH, WIDTH, LAYERS = 11, 2500, 16, 24, 6
DRAWINGS, STREETS = 3000, 120
OPSET = 17


class Purifier(nn.Module):
    """What was added is estimated and taken off: a residual stack of 3x3 convolutions (Zhang et al., "Beyond a Gaussian
    denoiser", IEEE Trans. Image Process. 26, 2017). (N, 3, H, W) float32 levels in and out."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, WIDTH, 3, padding=1), nn.ReLU()]
        for _ in range(LAYERS - 2):
            layers += [nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Conv2d(WIDTH, 3, 3, padding=1))
        nn.init.zeros_(self.body[-1].weight)  # starts as the identity
        nn.init.zeros_(self.body[-1].bias)

    def forward(self, x: Tensor) -> Tensor:
        return torch.clamp(x - 255.0 * self.body(x / 255.0), 0.0, 255.0)


def main() -> None:
    """Train and export."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("purifier.onnx"))
    parser.add_argument("--steps", type=int, default=STEPS)
    given = parser.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    rng = np.random.default_rng(SEED)
    clean = [drawing(rng) for _ in range(DRAWINGS)] + streets(rng, STREETS)
    net = Purifier()
    optimiser = torch.optim.Adam(net.parameters(), 2e-3)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, given.steps)
    for step in range(given.steps):
        chosen = [clean[int(k)].astype(np.float32) for k in rng.integers(0, len(clean), BATCH)]
        spoilt = [disturbed(picture, rng) for picture in chosen]
        x, y = (torch.from_numpy(np.stack(part).transpose(0, 3, 1, 2).copy()) for part in (spoilt, chosen))
        loss = (net(x) - y).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        falling.step()
        if step % 100 == 0 or step == given.steps - 1:
            print(
                f"step {step:5d}  mean error {loss.item():.3f} levels, untouched {(x - y).abs().mean().item():.3f}",
                flush=True,
            )
    torch.onnx.export(
        net.eval(), (torch.zeros(1, 3, 224, 224),), given.out, input_names=["levels"], output_names=["purified"],
        opset_version=OPSET, dynamo=False,
        dynamic_axes={"levels": {2: "height", 3: "width"}, "purified": {2: "height", 3: "width"}},
    )  # fmt: skip
    print(f"written: {given.out}, {given.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
