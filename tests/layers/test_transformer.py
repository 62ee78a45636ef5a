import pytest
import torch

from perception.layers.attention import attend
from perception.layers.transformer import Block, DropPath


def softmax_attention(q, k, v):
    weights = torch.einsum("bhnd,bhmd->bhnm", q, k) / q.shape[-1] ** 0.5
    return torch.einsum("bhnm,bhmd->bhnd", weights.exp() / weights.exp().sum(-1, keepdim=True), v)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_attention_equals_its_formula(dtype, tolerance):
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 9, 8), torch.randn(2, 3, 9, 8)
    out = attend(q.to(dtype), k.to(dtype), v.to(dtype))
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), softmax_attention(q, k, v), atol=tolerance, rtol=tolerance)


def test_block_outputs_of_the_last_tokens_alone_are_those_of_all():
    torch.manual_seed(0)
    block = Block(16, 4)
    x = torch.randn(2, 7, 16)
    torch.testing.assert_close(block(x, last=3), block(x)[:, 4:])
    torch.testing.assert_close(block(x, last=7), block(x))


def test_block_is_equivariant_to_the_order_of_tokens():
    torch.manual_seed(0)
    block = Block(16, 4)
    x, order = torch.randn(2, 7, 16), torch.randperm(7)
    torch.testing.assert_close(block(x[:, order]), block(x)[:, order])


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    out = DropPath(0.25)(torch.ones(20000, 2, 3))
    assert out.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert torch.equal(out, out[:, :1, :1].expand_as(out))
    assert out.mean().item() == pytest.approx(1.0, abs=0.02)
    x = torch.randn(4, 3)
    assert DropPath(0.25).eval()(x) is x


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="does not divide"):
        Block(16, 5)
