"""GraphMAE: masked reconstruction of node features.

Hou, Liu, Cen, Dong, Yang, Wang, Tang: "GraphMAE: Self-Supervised Masked Graph Autoencoders", KDD 2022; and the two
additions of Hou et al.: "GraphMAE2: A Decoding-Enhanced Masked Self-Supervised Graph Learner", WWW 2023.

The features of a random subset V_m of nodes are hidden (by a learnable token, or another node's features), the graph
is encoded, the codes of V_m are hidden again, and a graph layer reconstructs the hidden features from the neighbours:

    Z = W f_E(A, X~),   z_i = 0 for i in V_m,   X^ = f_D(A, Z),
    L = 1/|V_m| sum over V_m of (1 - cos(x^_i, x_i))^alpha

GraphMAE2 decodes several times, each time with other codes hidden behind a learnable token (``remask='random'``), and
predicts the codes that a slowly moving copy of the encoder gives to the unmasked graph (``latent_weight``).

Deviations: what no loss can depend on is not computed (codes that are hidden, reconstructions of visible nodes);
dropped edges never touch self-loops, so that each stays exactly once.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.backbones.base import Backbone
from perception.errors import ConfigError, DataError, Fault, check_arguments, not_among
from perception.graphs.encoders.base import ACTIVATIONS, NORMS, GraphBackbone, graph_adjacency
from perception.graphs.pretexts.decoders import DECODERS, GRAPH_DECODERS, build_decoder
from perception.graphs.pretexts.masking import NodeMask, draw_node_mask
from perception.layers.adjacency import Adjacency
from perception.layers.node_features import NodeFeatures, take_rows
from perception.losses.scaled_cosine import scaled_cosine_error
from perception.pretext.base import Pretext
from perception.registry import PRETEXTS
from perception.transforms.preprocess import Batch


@PRETEXTS.register_module()
class GraphMAE(Pretext):
    """Masked autoencoder of node features, for one large graph or batches of small ones.

    Args:
        mask_ratio: share of nodes whose features are hidden.
        replace_rate: share of those that read another node's features instead of the token.
        drop_edge_rate: probability of dropping an edge, for the encoder only.
        loss: ``'sce'`` (scaled cosine) or ``'mse'``.
        alpha: exponent of the scaled cosine error.
        decoder: ``'gat'``, ``'gin'``, ``'gcn'``, ``'mlp'`` or ``'linear'``; the last two need no re-masking.
        decoder_norm: norm inside a ``'gin'`` decoder.
        decoder_activation: activation inside a ``'gin'`` decoder.
        num_out_heads: heads of a ``'gat'`` decoder.
        in_drop: dropout of the decoder's input; ``None`` takes the backbone's.
        attn_drop: attention dropout of a ``'gat'`` decoder; ``None`` takes the backbone's.
        concat_hidden: decode from all layers of the encoder side by side.
        remask: ``'fixed'`` hides the codes of the masked nodes; ``'random'`` hides random ones (GraphMAE2).
        num_remasks: decoder passes of ``'random'``; their losses are summed.
        remask_rate: share of codes hidden in each pass of ``'random'``.
        latent_weight: weight of the latent prediction of GraphMAE2; 0 leaves it out.
        latent_hidden: width inside the projector of the latent prediction.
        momentum: share of the old copy that the teacher keeps at every step.
    """

    def __init__(
        self,
        mask_ratio: float = 0.5,
        replace_rate: float = 0.0,
        drop_edge_rate: float = 0.0,
        loss: str = "sce",
        alpha: float = 2.0,
        decoder: str = "gat",
        decoder_norm: str | None = None,
        decoder_activation: str | None = "prelu",
        num_out_heads: int = 1,
        in_drop: float | None = None,
        attn_drop: float | None = None,
        concat_hidden: bool = False,
        remask: str = "fixed",
        num_remasks: int = 3,
        remask_rate: float = 0.5,
        latent_weight: float = 0.0,
        latent_hidden: int = 256,
        momentum: float = 0.996,
    ) -> None:
        super().__init__()
        check_arguments("model.pretexts.*", self.check_config, locals())
        self.mask_ratio, self.replace_rate, self.drop_edge_rate = mask_ratio, replace_rate, drop_edge_rate
        self.loss, self.alpha = loss, alpha
        self.decoder_kind, self.decoder_norm, self.decoder_activation = decoder, decoder_norm, decoder_activation
        self.num_out_heads, self.in_drop, self.attn_drop = num_out_heads, in_drop, attn_drop
        self.concat_hidden = concat_hidden
        self.remask, self.num_remasks, self.remask_rate = remask, num_remasks, remask_rate
        self.latent_weight, self.latent_hidden, self.momentum = latent_weight, latent_hidden, momentum

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> list[tuple[str, str]]:
        """Faults of a config as (key, message)."""
        faults = []
        if not 0 < cfg["mask_ratio"] < 1:
            faults.append(("mask_ratio", "must lie between 0 and 1, both excluded"))
        for key in ("replace_rate", "drop_edge_rate", "remask_rate"):
            if not 0 <= cfg[key] < 1:
                faults.append((key, "must lie in [0, 1)"))
        if not 0 <= cfg["momentum"] <= 1:
            faults.append(("momentum", "must lie in [0, 1]"))
        if cfg["alpha"] < 1:
            faults.append(("alpha", "must be at least 1"))
        if cfg["latent_weight"] < 0:
            faults.append(("latent_weight", "must not be negative"))
        for key in ("num_remasks", "num_out_heads", "latent_hidden"):
            if cfg[key] < 1:
                faults.append((key, "must be at least 1"))
        for key, choices in (
            ("loss", ("sce", "mse")),
            ("decoder", DECODERS),
            ("remask", ("fixed", "random")),
            ("decoder_norm", (None, *NORMS)),
            ("decoder_activation", (None, *ACTIVATIONS)),
        ):
            if cfg[key] not in choices:
                faults.append((key, not_among(cfg[key], choices)))
        return faults

    def attach(self, backbone: Backbone) -> None:
        """Build token, decoder and teacher for the sizes of ``backbone``."""
        if not isinstance(backbone, GraphBackbone):
            kind = type(backbone).__name__
            raise ConfigError([Fault("model.backbone.type", kind, "GraphMAE needs a graph encoder (GAT, GIN, GCN)")])
        if self.decoder_kind == "gat" and backbone.in_dim % self.num_out_heads:
            text = f"does not divide the {backbone.in_dim} features that the decoder reconstructs"
            raise ConfigError([Fault("model.pretexts.*.num_out_heads", self.num_out_heads, text)])
        hidden = backbone.embed_dims
        layers = backbone.num_layers if self.concat_hidden else 1
        self.mask_token = nn.Parameter(torch.zeros(1, backbone.in_dim))
        self.encoder_to_decoder = nn.Linear(hidden * layers, hidden, bias=False)
        self.decoder = build_decoder(
            self.decoder_kind,
            hidden,
            backbone.in_dim,
            backbone.in_drop if self.in_drop is None else self.in_drop,
            getattr(backbone, "attn_drop", 0.0) if self.attn_drop is None else self.attn_drop,
            getattr(backbone, "negative_slope", 0.2),
            self.decoder_activation,
            self.decoder_norm,
            self.num_out_heads,
        )
        if self.remask == "random":
            self.decoder_token = nn.Parameter(torch.zeros(1, hidden))
        if self.latent_weight > 0:
            self.projector = nn.Sequential(
                nn.Linear(hidden, self.latent_hidden), nn.PReLU(), nn.Linear(self.latent_hidden, hidden)
            )
            self.predictor = nn.Sequential(nn.PReLU(), nn.Linear(hidden, hidden))
            self.teacher = copy.deepcopy(backbone).requires_grad_(False)
            self.teacher_projector = copy.deepcopy(self.projector).requires_grad_(False)

    def forward(self, backbone: Backbone, batch: Batch) -> dict[str, Tensor]:
        """Losses of a preprocessed batch with ``graph``: ``loss_reconstruction`` and, if asked for, ``loss_latent``."""
        assert isinstance(backbone, GraphBackbone)
        graph = batch["graph"]
        adjacency = graph_adjacency(graph)
        mask = draw_node_mask(graph.x.shape[0], self.mask_ratio, self.replace_rate, graph.x.device)
        if not len(mask.masked):
            raise DataError(f"mask_ratio={self.mask_ratio} hides none of the {graph.x.shape[0]} nodes of this batch")
        return self.losses(backbone, graph.x, adjacency, mask)

    def losses(self, backbone: GraphBackbone, x: Tensor, adjacency: Adjacency, mask: NodeMask) -> dict[str, Tensor]:
        """Losses for a given draw of masked nodes."""
        target, passes, kept_codes = self.reconstruct(backbone, x, adjacency, mask)
        out = {"loss_reconstruction": torch.stack([self._criterion(p, target) for p in passes]).sum()}
        if kept_codes is not None:
            out["loss_latent"] = self.latent_weight * self._latent_loss(kept_codes, x, adjacency, mask.kept)
        return out

    def reconstruct(
        self, backbone: GraphBackbone, x: Tensor, adjacency: Adjacency, mask: NodeMask
    ) -> tuple[Tensor, list[Tensor], Tensor | None]:
        """Features of the masked nodes, and what becomes of them.

        Returns:
            The true features (M, D); their reconstructions (M, D), one a decoder pass; the encoder's output
            (N - M, H) at the kept nodes if the latent prediction needs it.
        """
        fixed = self.remask == "fixed"
        graph_decoder = self.decoder_kind in GRAPH_DECODERS
        rows = self._needed_rows(mask, fixed, graph_decoder)
        hidden = self._encode(backbone, x, adjacency, mask, rows)  # (R, H or L H)
        codes = self.encoder_to_decoder(hidden)
        target = take_rows(x, mask.masked)
        target = target.to_dense() if target.layout == torch.sparse_csr else target

        passes = []
        if not graph_decoder:
            passes.append(self.decoder(codes if rows is not None else codes.index_select(0, mask.masked), adjacency))
        elif fixed:
            full = codes.new_zeros(adjacency.num_targets, codes.shape[1]).index_copy(0, mask.kept, codes)
            passes.append(self.decoder(full, adjacency, mask.masked))
        else:
            passes += [
                self.decoder(self._remask_randomly(codes), adjacency, mask.masked) for _ in range(self.num_remasks)
            ]
        if self.latent_weight <= 0:
            return target, passes, None
        last = hidden[:, -backbone.embed_dims :]
        return target, passes, last if rows is not None else last.index_select(0, mask.kept)

    def _needed_rows(self, mask: NodeMask, fixed: bool, graph_decoder: bool) -> Tensor | None:
        """Nodes whose codes some loss depends on; ``None`` for all."""
        if not graph_decoder:
            return mask.masked if self.latent_weight <= 0 else None
        return mask.kept if fixed else None  # the latent prediction, too, is of kept nodes

    def _encode(
        self, backbone: GraphBackbone, x: Tensor, adjacency: Adjacency, mask: NodeMask, rows: Tensor | None
    ) -> Tensor:
        features = NodeFeatures(_replace_rows(x, mask.noise, mask.noise_source))
        features = features.with_token(self.mask_token, mask.token)
        if self.training:
            adjacency = adjacency.drop_edges(self.drop_edge_rate)
        maps = backbone.forward_nodes(features, adjacency, rows)
        if not self.concat_hidden:
            return maps[-1]
        return torch.cat([*(m if rows is None else m.index_select(0, rows) for m in maps[:-1]), maps[-1]], dim=1)

    def _remask_randomly(self, codes: Tensor) -> Tensor:
        count = int(self.remask_rate * codes.shape[0])
        hidden = torch.randperm(codes.shape[0], device=codes.device)[:count]
        return codes.index_copy(0, hidden, self.decoder_token.expand(count, -1).to(codes.dtype))

    def _criterion(self, prediction: Tensor, target: Tensor) -> Tensor:
        if self.loss == "mse":
            return F.mse_loss(prediction, target)
        return scaled_cosine_error(prediction, target, self.alpha)

    def _latent_loss(self, codes: Tensor, x: Tensor, adjacency: Adjacency, kept: Tensor) -> Tensor:
        with torch.no_grad():
            target = self.teacher_projector(self.teacher.forward_nodes(x, adjacency, kept)[-1])
        return scaled_cosine_error(self.predictor(self.projector(codes)), target, alpha=1.0)

    @torch.no_grad()
    def after_step(self, backbone: Backbone) -> None:
        """Move the teacher towards the student."""
        if self.latent_weight <= 0:
            return
        for teacher, student in ((self.teacher, backbone), (self.teacher_projector, self.projector)):
            for old, new in zip(teacher.parameters(), student.parameters(), strict=True):
                old.lerp_(new, 1 - self.momentum)
            for kept, current in zip(teacher.buffers(), student.buffers(), strict=True):
                kept.copy_(current)

    @torch.no_grad()
    def pictures(self, backbone: Backbone, batch: Batch) -> dict[str, np.ndarray]:
        """``reconstruction``: features of hidden nodes (above) and what the decoder makes of them (below).

        Features whose number is a square are drawn as squares, others as strips of their first 128 columns.
        """
        assert isinstance(backbone, GraphBackbone)
        graph = batch["graph"]
        adjacency = graph_adjacency(graph)
        mask = draw_node_mask(graph.x.shape[0], self.mask_ratio, self.replace_rate, graph.x.device)
        shown = min(12, len(mask.masked))
        target, passes = self.reconstruct(backbone, graph.x, adjacency, mask)[:2]
        target, prediction = target[:shown], passes[-1][:shown].float()
        # The loss leaves the scale of a row free: draw each at the scale that fits its target best.
        scale = (target * prediction).sum(1) / prediction.square().sum(1).clamp_min(1e-12)
        return {"reconstruction": _side_by_side(target.cpu(), (prediction * scale.unsqueeze(1)).cpu())}


def _side_by_side(target: Tensor, prediction: Tensor) -> np.ndarray:
    """(n, D) twice -> (H, W, 3) uint8, grey values scaled over the targets."""
    side = math.isqrt(target.shape[1])
    height, width = (side, side) if side * side == target.shape[1] else (1, min(target.shape[1], 128))
    # Rare outliers of standardised columns would leave nothing but grey; sparse rows need their few large values.
    low, high = torch.quantile(target, torch.tensor([0.02, 0.98])).tolist()
    low, high = (low, high) if high > low else (float(target.min()), float(target.max()))
    pair = ((torch.stack([target, prediction]) - low) / max(high - low, 1e-12)).clamp(0, 1)[:, :, : height * width]
    if height > 1:  # two rows of square tiles
        tiles = F.pad(pair.unflatten(2, (height, width)), (1, 1, 1, 1), value=0.5)
        grey = tiles.permute(0, 2, 1, 3).reshape(2 * (height + 2), -1)
    else:  # strips: target and prediction of a node one below the other
        grey = F.pad(pair.transpose(0, 1), (0, 0, 0, 1), value=0.5).reshape(-1, width)
    zoom = 8 if height > 1 else 5
    pixels = grey.repeat_interleave(zoom, 0).repeat_interleave(zoom, 1).mul(255).to(torch.uint8)
    return pixels.unsqueeze(2).repeat(1, 1, 3).numpy()


def _replace_rows(x: Tensor, rows: Tensor, sources: Tensor) -> Tensor:
    """``x`` with the rows of ``sources`` at ``rows``; dense or CSR."""
    if not rows.numel():
        return x
    index = torch.arange(x.shape[0], device=x.device)
    index[rows] = sources
    return take_rows(x, index)
