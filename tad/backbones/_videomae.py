"""VideoMAE's transformer in any size, by transformers' VideoMAEModel, and its parts for adapters."""

# M clips, C channels, F frames of a clip, H rows, W columns, N tokens, D width

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from tad.core.optional import transformers_model
from tad.layers.adapters.trunk import Trunk

FRAMES, TUBELET = 16, 2
STEPS = FRAMES // TUBELET
PUBLISHED_SIDE = 14  # patches per side of the grid that the published weights were trained on


def resized_code(code_1ND: Tensor, grid: tuple[int, int], to: tuple[int, int]) -> Tensor:
    """Resize a position code of `STEPS` grids of patches to other grids, bicubically over rows and columns."""
    if grid == to:
        return code_1ND
    width = code_1ND.shape[2]
    code_SDHW = code_1ND.reshape(STEPS, *grid, width).permute(0, 3, 1, 2)
    code_SDHW = F.interpolate(code_SDHW, size=to, mode="bicubic", align_corners=False)
    return code_SDHW.permute(0, 2, 3, 1).reshape(1, -1, width)


def build_network(
    *, width: int, layers: int, heads: int, hidden: int, image: tuple[int, int], patch: int, side: int, **options: Any
) -> nn.Module:
    """Return a VideoMAEModel with random weights.

    The position code of `side` x `side` patches is resized to the image's patches. transformers computes a fresh code
    for another image size, which the weights have never seen.

    Args:
        width: D. layers: number of blocks. heads: attention heads of each. hidden: hidden width of their MLP.
        image: rows and columns of the input in pixels.
        patch: rows and columns of a patch.
        side: patches per side of the grid that the position code is made for.
        options: further fields of VideoMAEConfig.
    """
    library = transformers_model("videomae")
    config = library.VideoMAEConfig(
        image_size=list(image), patch_size=patch, num_frames=FRAMES, tubelet_size=TUBELET, hidden_size=width,
        num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=hidden, **options,
    )  # fmt: skip
    net: Any = library.VideoMAEModel(config)
    code_1ND = library.get_sinusoid_encoding_table(STEPS * side * side, width)
    grid = (image[0] // patch, image[1] // patch)
    net.embeddings.position_embeddings = resized_code(code_1ND, (side, side), grid)
    assert isinstance(net, nn.Module)
    return net


def centred(x_MCFHW: Tensor) -> Tensor:
    """Subtract the mean over a clip's frames, which removes a static background and keeps what moves."""
    return x_MCFHW - x_MCFHW.mean(dim=2, keepdim=True)


class VideoMaeTrunk(Trunk):
    """The parts of a VideoMAEModel; with `subtract`, its input is `centred`."""

    net: Any

    def __init__(
        self, net: Any, *, mean: tuple[float, ...], std: tuple[float, ...], subtract: bool = False
    ) -> None:
        super().__init__()
        self.subtract = subtract
        self.net = net
        self.width, self.clip, self.tubelet = self.net.config.hidden_size, FRAMES, TUBELET
        self.mean, self.std = mean, std
        self.blocks = self.net.encoder.layer

    def embed(self, x_MCFHW: Tensor) -> Tensor:
        """Return the patches' tokens (M, N, D) with their position code."""
        if self.subtract:
            x_MCFHW = centred(x_MCFHW)
        tokens_MND: Tensor = self.net.embeddings(x_MCFHW.transpose(1, 2), None)
        return tokens_MND

    def attend(self, block: Any, x_MND: Tensor) -> Tensor:
        """Return what the attention branch of a block adds."""
        added_MND: Tensor = block.attention(block.layernorm_before(x_MND))
        return added_MND

    def widen(self, block: Any, x_MND: Tensor) -> Tensor:
        """Return what the MLP branch of a block adds."""
        wide: Tensor = block.intermediate(block.layernorm_after(x_MND))
        added_MND: Tensor = block.output.dense(wide)
        return added_MND
