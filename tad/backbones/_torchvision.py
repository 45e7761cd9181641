"""torchvision's video classifiers without their last layer, with their published preprocessing."""

from collections.abc import Mapping

from torch import Tensor, nn

from tad.backbones._encoder import ClipEncoder, fitted
from tad.backbones._settings import ResizedSettings
from tad.core.optional import torchvision


class VideoClassifier(ClipEncoder):
    """Model of `torchvision.models.video`; the features are the inputs of its classifier.

    Args:
        model: torchvision's name of the model, also the name of the backbone.
        settings: settings of the backbone.
        head: attribute of the classification layer, which is replaced by an identity.
        dim: input width of that layer.
        length: number of frames that the network accepts; 0: any.
    """

    def __init__(self, model: str, settings: ResizedSettings, *, head: str, dim: int, length: int = 0) -> None:
        super().__init__(model, settings, resampling="uint8", length=length)
        self.dim, self.head = dim, head
        self.net: nn.Module = getattr(torchvision().models.video, model)(weights=None)
        setattr(self.net, head, nn.Identity())

    def published_keys(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename torchvision's keys or those of a TSP checkpoint (`features.`) and drop the classifiers."""
        return fitted(state, self.state_dict(), inside="net", heads=(self.head, "fc"))

    def features(self, x_BCTHW: Tensor) -> Tensor:
        """Return the features (B, dim) of a normalised input."""
        feats_BC: Tensor = self.net(x_BCTHW)
        return feats_BC
