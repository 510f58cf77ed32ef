"""The image tower of CLIP's ResNets (RN50, RN101), with its attention pool.

Written from its description (arXiv 2103.00020, section 2.4): a ResNet-D whose stem has three convolutions, whose blocks
average before the convolution that would have the stride, and which ends in attention pooling. Features are the map
before the pooling, which serves `embed` and whole state dicts. Parameters are named as in OpenAI's checkpoints.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

HEAD_SIZE = 64


@dataclass(frozen=True)
class ClipResNetConfig:
    """Sizes of a tower; the names that it shares with the configs of transformers mean the same."""

    depths: tuple[int, ...]
    """Blocks of each of the four stages."""

    output_dim: int
    """Width of the space shared with text."""

    width: int = 64
    """Channels after the stem; the last stage has 32 times as many."""

    image_size: int = 224
    """Side of the image that the attention pool is made for; features may be taken at any multiple of 32."""

    model_type: ClassVar[str] = "clip_resnet"
    patch_size: ClassVar[int] = 32

    @property
    def hidden_size(self) -> int:
        """Width of the features."""
        return 32 * self.width


CLIP_RESNETS = {
    "RN50": ClipResNetConfig(depths=(3, 4, 6, 3), output_dim=1024),
    "RN101": ClipResNetConfig(depths=(3, 4, 23, 3), output_dim=512),
}


@dataclass(frozen=True)
class ClipResNetOutput:
    """Maps of the tower as rows, from left to right and top to bottom."""

    last_hidden_state: Float[Tensor, "B g c"]
    """The last stage: 49 rows of 2048 for 224 pixels."""

    hidden_states: tuple[Tensor, ...] | None
    """Stem and four stages."""


class ClipResNet(nn.Module):
    """Pixels to the map of the last stage; `tower_features` takes it as it does a tower of transformers."""

    def __init__(self, config: ClipResNetConfig) -> None:
        super().__init__()
        self.config = config
        half, width = config.width // 2, config.width
        self.conv1, self.bn1 = _conv(3, half, size=3, stride=2), nn.BatchNorm2d(half)
        self.conv2, self.bn2 = _conv(half, half, size=3), nn.BatchNorm2d(half)
        self.conv3, self.bn3 = _conv(half, width, size=3), nn.BatchNorm2d(width)
        num_channels = width
        for stage, depth in enumerate(config.depths):
            blocks = [Bottleneck(num_channels, num_inner=width << stage, stride=2 if stage else 1)]
            num_channels = 4 * (width << stage)
            blocks += [Bottleneck(num_channels, num_inner=width << stage) for _ in range(depth - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        side = config.image_size // config.patch_size
        self.attnpool = AttentionPool(num_channels, output_dim=config.output_dim, num_positions=side**2)

    def forward(
        self, pixel_values: Float[Tensor, "B channels H W"], output_hidden_states: bool = False
    ) -> ClipResNetOutput:
        """The last map as rows, every map with `output_hidden_states`: the call that towers of transformers take."""
        states = tuple(stage.flatten(2).transpose(1, 2) for stage in self._maps(pixel_values))
        return ClipResNetOutput(states[-1], hidden_states=states if output_hidden_states else None)

    def embed(self, pixel_values: Float[Tensor, "B channels H W"]) -> Float[Tensor, "B output_dim"]:
        """The image in the space shared with text, as OpenAI's `encode_image`."""
        return self.attnpool(self._maps(pixel_values)[-1])

    def _maps(self, pixel_values: Tensor) -> list[Tensor]:
        x = pixel_values.to(self.conv1.weight.dtype)
        for conv, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            x = F.relu(norm(conv(x)))
        maps = [F.avg_pool2d(x, 2)]
        for number in range(1, 5):
            maps.append(self.get_submodule(f"layer{number}")(maps[-1]))
        return maps


class Bottleneck(nn.Module):
    """Three convolutions around a shortcut; a stride averages both ways before their last 1 x 1 convolution."""

    def __init__(self, num_channels: int, *, num_inner: int, stride: int = 1) -> None:
        super().__init__()
        num_outer = 4 * num_inner
        self.stride = stride
        self.conv1, self.bn1 = _conv(num_channels, num_inner, size=1), nn.BatchNorm2d(num_inner)
        self.conv2, self.bn2 = _conv(num_inner, num_inner, size=3), nn.BatchNorm2d(num_inner)
        self.conv3, self.bn3 = _conv(num_inner, num_outer, size=1), nn.BatchNorm2d(num_outer)
        self.downsample: nn.Module | None = None
        if stride > 1 or num_channels != num_outer:
            self.downsample = nn.Sequential(_conv(num_channels, num_outer, size=1), nn.BatchNorm2d(num_outer))

    def forward(self, x: Float[Tensor, "B c H W"]) -> Float[Tensor, "B C h w"]:
        """With stride 2 half the height and width, rounded down."""
        inner = F.relu(self.bn1(self.conv1(x)))
        inner = self._smaller(F.relu(self.bn2(self.conv2(inner))))
        shortcut = x if self.downsample is None else self.downsample(self._smaller(x))
        return F.relu(self.bn3(self.conv3(inner)) + shortcut)

    def _smaller(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.stride) if self.stride > 1 else x


class AttentionPool(nn.Module):
    """One attention layer whose only query is the mean of the map; keys and values are the mean and every place."""

    def __init__(self, num_channels: int, *, output_dim: int, num_positions: int) -> None:
        super().__init__()
        positions = torch.randn(num_positions + 1, num_channels) * num_channels**-0.5
        self.positional_embedding = nn.Parameter(positions)
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(num_channels, num_channels) for _ in range(3))
        self.c_proj = nn.Linear(num_channels, output_dim)

    def forward(self, x: Float[Tensor, "B c h w"]) -> Float[Tensor, "B output_dim"]:
        """Heads are 64 channels wide."""
        rows = x.flatten(2).transpose(1, 2)
        num_positions = len(self.positional_embedding) - 1
        if rows.shape[1] != num_positions:
            raise ValueError(f"the attention pool takes a map of {num_positions} places, got {rows.shape[1]}.")
        rows = torch.cat([rows.mean(1, keepdim=True), rows], dim=1) + self.positional_embedding
        query, keys, values = (
            projection(part).unflatten(-1, (-1, HEAD_SIZE)).transpose(1, 2)
            for projection, part in ((self.q_proj, rows[:, :1]), (self.k_proj, rows), (self.v_proj, rows))
        )
        pooled = F.scaled_dot_product_attention(query, keys, values)
        return self.c_proj(pooled.transpose(1, 2).flatten(1))


def _conv(num_in: int, num_out: int, *, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(num_in, num_out, size, stride=stride, padding=size // 2, bias=False)
