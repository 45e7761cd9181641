"""Each correction of MSE and TriDet is a choice of its own."""

import pytest
import torch
from test_detectors import SIZES, SMALL, feats, largest_difference, raw, settings, small, targets

from tad.detectors._points.heads import trident_offsets
from tad.settings import plugins


@pytest.mark.parametrize("method", ["mse", "tridet"])
def test_a_correction_can_be_left_out(method: str) -> None:
    x_BTC, lengths_B = feats(75)
    for left_out in ("masked", "living", "detached"):
        others = [name for name in ("masked", "living", "detached") if name != left_out]
        detector = small(method, "corrected", corrections=others, kernel=3, use_position=True).eval()
        difference = largest_difference(*(raw(detector, x_BTC, lengths_B, n) for n in (96, 384)))
        assert (difference > 1e-5) == (left_out == "masked")
        detector.train().loss(*feats(96), [targets((10, 30, 0))])["cls"].backward()
        touched = any(p.grad is not None and bool(torch.any(p.grad)) for p in detector.start_head.parameters())
        assert touched == (left_out == "detached")
        torch.manual_seed(0)
        fresh = plugins.build("detectors", method, settings(method, corrections=others, **SMALL), **SIZES)
        kernels = [p for n, p in fresh.named_parameters() if n.split(".")[-2] == "convw" and n.endswith("weight")]
        assert any(bool(torch.any(p)) for p in kernels) == (left_out != "living")


def test_the_end_of_a_video_is_within_reach_of_its_last_point_and_what_lies_beyond_is_not() -> None:
    """Whatever the padding: with all boundaries inside unlikely, the first point outside is what is left."""
    for padding in (0, 3, 40):
        length = 6 + padding
        mask_B1T = (torch.arange(length) < 6)[None, None]
        unlikely_BKT = torch.full((1, 1, length), -50.0)
        points_N = torch.tensor([0, 3, 5])
        zeros_N = torch.zeros_like(points_N)
        centre_BJT = torch.zeros(1, 2 * 9, length)
        chosen = (zeros_N, points_N, zeros_N)
        decoded_N2 = trident_offsets(unlikely_BKT, unlikely_BKT, centre_BJT, mask_B1T, chosen, bins=8, masked=True)
        assert torch.allclose(decoded_N2, torch.tensor([[1.0, 6.0], [4.0, 3.0], [6.0, 1.0]]))
