"""Times of DiGIT: sinusoidal codes, and sequences that are resampled to half of their length."""

# B videos, T snippets, S snippets of the next level, C channels, D channels of a code

import torch
from torch import Tensor

TEMPERATURE = 10000.0  # ratio of the longest wave to the shortest


def sine_code(time: Tensor, channels: int) -> Tensor:
    """Return the code of times (…), (…, D): sine on even channels, cosine on odd ones."""
    pair_D = torch.div(torch.arange(channels, device=time.device), 2, rounding_mode="floor").to(time.dtype)
    angle = time[..., None] / TEMPERATURE ** (2 * pair_D / channels)
    return torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], dim=-1).flatten(-2)


def halved(lengths_B: Tensor) -> Tensor:
    """Return the lengths of the next level, half of these and rounded up."""
    return torch.div(lengths_B + 1, 2, rounding_mode="floor")


def resample(x_BTC: Tensor, lengths_B: Tensor, shorter_B: Tensor) -> Tensor:
    """Interpolate the first `lengths` positions of each sequence at `shorter` positions; zero after them.

    Both grids cover the same time: without padding this is linear interpolation with the ends not aligned, and for an
    even length the mean of neighbours. So the result of a video does not depend on its padding.

    Args:
        x_BTC: the sequences; T is even.
        lengths_B: int64, real positions of each, at least 1.
        shorter_B: `halved` lengths.

    Returns:
        (B, T / 2, C).
    """
    size = x_BTC.shape[1] // 2
    step_B1 = (lengths_B.to(x_BTC.dtype) / shorter_B.to(x_BTC.dtype))[:, None]
    position_S = torch.arange(size, device=x_BTC.device)
    at_BS = ((position_S.to(x_BTC.dtype) + 0.5) * step_B1 - 0.5).clamp(min=0)
    low_BS = torch.minimum(at_BS.floor().long(), lengths_B[:, None] - 1)
    high_BS = torch.minimum(low_BS + 1, lengths_B[:, None] - 1)
    share_BS1 = (at_BS - low_BS.to(at_BS.dtype))[:, :, None]
    ends = [torch.gather(x_BTC, 1, i_BS[:, :, None].expand(-1, -1, x_BTC.shape[2])) for i_BS in (low_BS, high_BS)]
    y_BSC = (1 - share_BS1) * ends[0] + share_BS1 * ends[1]
    return y_BSC.masked_fill((position_S >= shorter_B[:, None])[:, :, None], 0.0)
