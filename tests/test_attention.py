"""Local attention is a band of the global one."""

import pytest
import torch

from tad.layers.attention import global_attention, local_attention


@pytest.mark.parametrize("length", [1, 50, 64, 130])
def test_local_attention_is_a_band_of_the_global_one(length: int) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 2, length, 8)
    mask = torch.arange(length) < torch.tensor([[[length]], [[max(length // 2, 1)]]])
    whole = global_attention(q, k, v, mask)
    assert torch.allclose(local_attention(q, k, v, mask, reach=length), whole, atol=1e-6)
    near = local_attention(q, k, v, mask, reach=3)
    steps = torch.arange(length)
    logits = q @ k.transpose(2, 3) / 8**0.5
    seen = ((steps[:, None] - steps).abs() <= 3) & mask[:, :, None]
    expected = logits.masked_fill(~seen, float("-inf")).softmax(3).nan_to_num() @ v
    real = mask[:, :, :, None].expand_as(near)
    assert torch.allclose(near[real], expected[real], atol=1e-6)
