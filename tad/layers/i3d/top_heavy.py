"""Top-heavy I3D, whose first stages process each frame independently: the student of Generative-based-KD (AAAI 2024).

All shapes are those of the full network: the first convolution keeps its temporal stride, and the poolings between the
stages are unchanged.
"""

# B clips, T frames, C channels, H rows, W columns

from collections.abc import Mapping

from torch import Tensor, nn

from tad.layers.i3d.inception import Inception, MaxPool, Unit

# stages with flattened kernels; kernels of 1 x 1 x 1 and those of Mixed_4d and later are unchanged
FLAT = ("Conv3d_1a_7x7", "Conv3d_2c_3x3", "Mixed_3b", "Mixed_3c", "Mixed_4b", "Mixed_4c")


class TopHeavy(Inception):
    """`Inception` with kernels of one frame in the stages `FLAT`, pooling branches included."""

    def __init__(self, *, channels: int, num_classes: int) -> None:
        super().__init__(channels=channels, num_classes=num_classes)
        for stage in FLAT:
            for module in getattr(self, stage).modules():
                if isinstance(module, Unit | MaxPool):
                    module.kernel = (1, *module.kernel[1:])
                if isinstance(module, Unit):
                    whole = module.conv3d
                    module.conv3d = nn.Conv3d(
                        whole.in_channels, whole.out_channels, module.kernel, module.stride, bias=False
                    )


def flat_units(trunk: Inception, weights: Mapping[str, Tensor]) -> list[str]:
    """Return the units (convolution and norm) whose kernels in `weights` span more frames than those of the trunk."""
    own = trunk.state_dict()
    shapes = {name: (tuple(value.shape), tuple(own[name].shape)) for name, value in weights.items() if name in own}
    return [
        name.removesuffix(".conv3d.weight")
        for name, (theirs, ours) in shapes.items()
        if len(ours) == 5 and theirs != ours and theirs[:2] + theirs[3:] == ours[:2] + ours[3:] and ours[2] == 1
    ]
