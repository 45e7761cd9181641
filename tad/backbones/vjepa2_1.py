"""V-JEPA 2.1's vision transformer: 768- to 1664-dimensional features of clips with an even number of frames.

"V-JEPA 2.1" (arXiv:2603.14482, 2026), after the published code of facebookresearch/vjepa2. It differs from V-JEPA 2 in
the rotation of queries and keys (pairs of neighbouring channels), in positions that are scaled to a grid of 16 x 16
whatever the crop, and in an embedding that marks videos. Experimental: no published detection result uses it.
"""

# B clips, T frames, C channels, H rows, W columns of pixels; N tokens; A heads, D channels of a head; P pairs of them

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tad.backbones._encoder import ClipEncoder, fitted
from tad.backbones.vjepa2_1_settings import Settings
from tad.core.errors import TadError

PATCH, TUBE, GRID = 16, 2, 16  # pixels, frames, and the patches of a side that positions are scaled to
EPS = 1e-6
LEVELS = 4  # of published norms; features pass the last one


class Size(NamedTuple):
    """Width, layers, heads, and width of the hidden layer."""

    width: int
    layers: int
    heads: int
    hidden: int


SIZES = {
    "base": Size(768, 12, 12, 3072),
    "large": Size(1024, 24, 16, 4096),
    "giant": Size(1408, 40, 22, 6144),
    "gigantic": Size(1664, 48, 26, 8192),
}


def positions(frames: int, rows: int, columns: int) -> list[Tensor]:
    """Return time, row and column (N) of each token of a grid; rows and columns are scaled to 0..15."""
    scales = (1.0, (GRID - 1) / max(rows - 1, 1), (GRID - 1) / max(columns - 1, 1))
    axes = [torch.arange(count) * scale for count, scale in zip((frames, rows, columns), scales, strict=True)]
    return [axis.flatten() for axis in torch.meshgrid(*axes, indexing="ij")]


def rotations(axes: list[Tensor], channels: int) -> tuple[Tensor, Tensor]:
    """Return cosine and sine (N, P) of the rotation of each pair of a head's channels.

    Time, rows and columns have an equal, even number of channels each; the remaining channels are not rotated.
    """
    pairs = channels // 3 // 2
    frequency_P = 1 / 10000 ** (torch.arange(pairs) / pairs)
    angle_NP = torch.cat([axis[:, None] * frequency_P for axis in axes], dim=1)
    angle_NP = F.pad(angle_NP, (0, channels // 2 - 3 * pairs))
    return angle_NP.cos(), angle_NP.sin()


def rotated(x_BAND: Tensor, cos_NP: Tensor, sin_NP: Tensor) -> Tensor:
    """Rotate each pair of neighbouring channels."""
    first, second = x_BAND[..., ::2], x_BAND[..., 1::2]
    pairs = torch.stack([first * cos_NP - second * sin_NP, second * cos_NP + first * sin_NP], dim=-1)
    return pairs.flatten(-2)


class Attention(nn.Module):
    """Self-attention whose queries and keys are rotated by their positions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x_BNC: Tensor, cos_NP: Tensor, sin_NP: Tensor) -> Tensor:
        """(B, N, C) → (B, N, C)."""
        q, k, v = self.qkv(x_BNC).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y_BAND = F.scaled_dot_product_attention(rotated(q, cos_NP, sin_NP), rotated(k, cos_NP, sin_NP), v)
        attended: Tensor = self.proj(y_BAND.transpose(1, 2).flatten(2))
        return attended


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(size.width, eps=EPS) for _ in range(2))
        self.attn = Attention(size.width, size.heads)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(size.width, size.hidden), "fc2": nn.Linear(size.hidden, size.width)})

    def forward(self, x_BNC: Tensor, cos_NP: Tensor, sin_NP: Tensor) -> Tensor:
        """(B, N, C) → (B, N, C)."""
        x_BNC = x_BNC + self.attn(self.norm1(x_BNC), cos_NP, sin_NP)
        mlp_BNC: Tensor = self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x_BNC))))
        return x_BNC + mlp_BNC


class Transformer(nn.Module):
    """The encoder; names of parameters are the published ones."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.channels = size.width // size.heads
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv3d(3, size.width, (TUBE, PATCH, PATCH), (TUBE, PATCH, PATCH))})
        self.video_mod_embed = nn.Parameter(torch.zeros(1, 1, size.width))
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.layers))
        self.norms_block = nn.ModuleList(nn.LayerNorm(size.width, eps=EPS) for _ in range(LEVELS))

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Return the tokens (B, N, C) after the last norm."""
        maps_BCTHW = self.patch_embed["proj"](x_BCTHW)
        turns = rotations(positions(*maps_BCTHW.shape[2:]), self.channels)
        cos_NP, sin_NP = (turn.to(maps_BCTHW) for turn in turns)
        x_BNC = maps_BCTHW.flatten(2).transpose(1, 2) + self.video_mod_embed
        for block in self.blocks:
            x_BNC = block(x_BNC, cos_NP, sin_NP)
        normed_BNC: Tensor = self.norms_block[-1](x_BNC)
        return normed_BNC


class Backbone(ClipEncoder):
    """V-JEPA 2.1: clips (B, T, H, W, 3) uint8 RGB → (B, dim) float32, the mean of all tokens; T must be even."""

    def __init__(self, settings: Settings) -> None:
        super().__init__("vjepa2_1", settings, resampling="antialias")
        size = SIZES[settings.size]
        self.dim, self.net = size.width, Transformer(size)

    def published_keys(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename the keys of the published encoder; drop the parts for single images."""
        bare = {key.removeprefix("module.").removeprefix("backbone."): tensor for key, tensor in state.items()}
        return fitted(bare, self.state_dict(), inside="net", heads=("patch_embed_img.", "img_mod_embed", "pos_embed"))

    def features(self, x_BCTHW: Tensor) -> Tensor:
        """Return the features (B, dim) of a normalised input."""
        if x_BCTHW.shape[2] % TUBE:
            raise TadError(f"vjepa2_1: clip.length {x_BCTHW.shape[2]}: must be even; set an even number")
        tokens_BNC: Tensor = self.net(x_BCTHW)
        return tokens_BNC.mean(dim=1)
