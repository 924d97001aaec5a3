"""A small one-scale detector: a residual backbone to stride 32, two top-down steps back to stride 8, one output."""

from __future__ import annotations

from torch import Tensor, nn

STRIDE_PX = 8


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class _Residual(nn.Module):
    """1x1 to half the channels, 3x3 back, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(channels, channels // 2, 1), _conv(channels // 2, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class ObstacleNet(nn.Module):
    """(N, 3, H, W) to (N, 5 + labels, H / 8, W / 8), laid out as docs/example-model.md says."""

    def __init__(self, labels: int) -> None:
        super().__init__()
        self.to_8 = nn.Sequential(
            _conv(3, 12, stride=2),
            _conv(12, 24, stride=2),
            _Residual(24),
            _conv(24, 32, stride=2),
            _Residual(32),
            _Residual(32),
        )
        self.to_16 = nn.Sequential(_conv(32, 48, stride=2), _Residual(48), _Residual(48))
        self.to_32 = nn.Sequential(_conv(48, 64, stride=2), _Residual(64), _Residual(64))
        self.side_32, self.side_16 = _conv(64, 32, 1), _conv(48, 32, 1)
        self.merge_16, self.merge_8 = _conv(32, 32), _conv(32, 32)
        self.head = nn.Sequential(_conv(32, 40), nn.Conv2d(40, 5 + labels, 1))
        # A cell is empty 99 times in 100; starting from that belief keeps the first steps stable (RetinaNet, 2017).
        nn.init.constant_(self.head[1].bias[:1], -4.6)

    def forward(self, x: Tensor) -> Tensor:
        at_8 = self.to_8(x)
        at_16 = self.to_16(at_8)
        at_32 = self.side_32(self.to_32(at_16))
        merged = self.merge_16(self.side_16(at_16) + nn.functional.interpolate(at_32, scale_factor=2.0))
        return self.head(self.merge_8(at_8 + nn.functional.interpolate(merged, scale_factor=2.0)))
