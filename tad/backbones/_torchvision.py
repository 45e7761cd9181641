"""torchvision's video classifiers without their last layer, with the preprocessing of their published weights."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from tad.backbones._encoder import ClipEncoder, fitted
from tad.vision import torchvision


class VideoClassifier(ClipEncoder):
    """A model of `torchvision.models.video` by name; what its classifier would see is the feature.

    Args:
        model: torchvision's name, which is the plug-in's too.
        head: its attribute that classifies; nothing takes its place.
        dim: width of what that layer takes.
        length: frames that the network takes; 0: any number.
    """

    def __init__(
        self, model: str, *, head: str, dim: int, resize: Sequence[int], crop: int, mean: Sequence[float],
        std: Sequence[float], length: int = 0,
    ) -> None:
        super().__init__(model, resize=resize, crop=crop, mean=mean, std=std, resampling="uint8", length=length)
        self.dim, self.head = dim, head
        self.net: nn.Module = getattr(torchvision().models.video, model)(weights=None)
        setattr(self.net, head, nn.Identity())

    def published_keys(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """torchvision's names, or those of a TSP checkpoint (`features.`), without the classifiers."""
        return fitted(state, self.state_dict(), inside="net", heads=(self.head, "fc"))

    def features(self, x_BCTHW: Tensor) -> Tensor:
        """(B, dim) features of a normalised input."""
        feats_BC: Tensor = self.net(x_BCTHW)
        return feats_BC
