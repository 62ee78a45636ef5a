"""Masked and causal attention against its formula, in every type that takes another way."""

import math

import pytest
import torch

from perception.layers.attention import attend


def reference(q, k, v, allowed):
    """Softmax over the allowed keys, one query at a time."""
    out = torch.zeros_like(q)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            for i in range(q.shape[2]):
                seen = allowed[b, h, i]
                scores = (k[b, h, seen] @ q[b, h, i]) / math.sqrt(q.shape[-1])
                out[b, h, i] = scores.softmax(0) @ v[b, h, seen]
    return out


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("case", ["all", "causal", "keys", "one query"])
def test_masks_follow_the_formula(case, dtype, tolerance):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 5, 8) for _ in range(3))
    mask, causal = None, case == "causal"
    if case == "keys":
        mask = (torch.arange(5) < torch.tensor([3, 5])[:, None])[:, None, None]
    if case == "one query":
        q = q[:, :, :1]
        mask = (torch.arange(5) <= torch.tensor([2, 0])[:, None])[:, None, None]
    shape = (2, 3, q.shape[2], 5)
    allowed = torch.ones(shape, dtype=torch.bool) if mask is None else mask.expand(shape)
    if causal:
        allowed = allowed & torch.ones(5, 5, dtype=torch.bool).tril()
    found = attend(q.to(dtype), k.to(dtype), v.to(dtype), mask, causal)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), reference(q, k, v, allowed), atol=tolerance, rtol=tolerance)
