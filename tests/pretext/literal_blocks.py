"""A transformer block without the library, for tests that rebuild a whole model."""

import torch
import torch.nn.functional as F


def literal_block(x, w, prefix, heads):
    """One pre-norm block over (N, D), written out from the formulae."""
    dim, size = x.shape[1], x.shape[1] // heads
    y = F.layer_norm(x, (dim,), w[prefix + "norm1.weight"], w[prefix + "norm1.bias"], 1e-6)
    q, k, v = (y @ w[prefix + "attn.qkv.weight"].T).split(dim, dim=1)
    if prefix + "attn.qkv.bias" in w:
        q, k, v = (part + bias for part, bias in zip((q, k, v), w[prefix + "attn.qkv.bias"].chunk(3), strict=True))
    else:  # none for keys
        q, v = q + w[prefix + "attn.q_bias"], v + w[prefix + "attn.v_bias"]
    parts = []
    for h in range(heads):
        s = slice(h * size, (h + 1) * size)
        parts.append(torch.softmax(q[:, s] @ k[:, s].T / size**0.5, dim=1) @ v[:, s])
    x = x + torch.cat(parts, dim=1) @ w[prefix + "attn.proj.weight"].T + w[prefix + "attn.proj.bias"]
    y = F.layer_norm(x, (dim,), w[prefix + "norm2.weight"], w[prefix + "norm2.bias"], 1e-6)
    y = F.gelu(y @ w[prefix + "mlp.fc1.weight"].T + w[prefix + "mlp.fc1.bias"])
    return x + y @ w[prefix + "mlp.fc2.weight"].T + w[prefix + "mlp.fc2.bias"]
