"""One-layer decoders of masked graph autoencoders: codes (N, H) -> reconstructed features of the wanted rows."""

from __future__ import annotations

from torch import Tensor, nn

from perception.errors import ConfigError, Fault, nearest
from perception.graphs.encoders.gat import GATLayer
from perception.graphs.encoders.gcn import GCNLayer
from perception.graphs.encoders.gin import GINLayer
from perception.layers.adjacency import Adjacency

DECODERS = ("gat", "gin", "gcn", "mlp", "linear")
#: Decoders that look at neighbours. The others see a node's own code alone, so there is nothing to re-mask.
GRAPH_DECODERS = ("gat", "gin", "gcn")


class NodewiseDecoder(nn.Module):
    """A map of every row by itself, with the call of the graph layers."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, adjacency: Adjacency, rows: Tensor | None = None) -> Tensor:
        """Outputs (N, D), or (R, D) of the nodes ``rows`` (R,)."""
        return self.net(x if rows is None else x.index_select(0, rows))


def build_decoder(
    kind: str,
    hidden: int,
    out_dim: int,
    in_drop: float,
    attn_drop: float = 0.0,
    negative_slope: float = 0.2,
    activation: str | None = "prelu",
    norm: str | None = None,
    num_out_heads: int = 1,
) -> nn.Module:
    """A decoder of one layer, without activation, norm or residual at its end.

    Args:
        kind: ``'gat'``, ``'gin'`` (a bare MLP after the sum; ``norm`` is inside only), ``'gcn'``, ``'mlp'`` or
            ``'linear'``.
        hidden: width H of the codes.
        out_dim: width D of the features.
        in_drop: dropout of the codes.
        attn_drop: dropout of the attention of ``'gat'``.
        negative_slope: of the scores of ``'gat'``.
        activation: inside ``'gin'`` and ``'mlp'``.
        norm: inside ``'gin'``.
        num_out_heads: heads of ``'gat'``.
    """
    if kind == "gat":
        return GATLayer(hidden, out_dim, num_out_heads, in_drop, attn_drop, negative_slope)
    if kind == "gin":
        return GINLayer(hidden, out_dim, hidden, in_drop, activation, norm, bare=True)
    if kind == "gcn":
        return GCNLayer(hidden, out_dim, in_drop)
    if kind == "mlp":
        parts = (nn.Linear(hidden, hidden), nn.PReLU(), nn.Dropout(0.2), nn.Linear(hidden, out_dim))
        return NodewiseDecoder(nn.Sequential(*parts))
    if kind == "linear":
        return NodewiseDecoder(nn.Linear(hidden, out_dim))
    raise ConfigError([Fault("model.pretexts.*.decoder", kind, f"not one of {DECODERS}", nearest(kind, DECODERS))])
