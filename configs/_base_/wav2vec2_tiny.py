"""wav2vec 2.0 (NeurIPS 2020) in small, for words at 8 kHz: pretext and optimiser; sizes and data are the child's.

Spans and codebooks are smaller than the paper's, for words last half a second; there is no penalty, as for LARGE.
"""

from mmengine.config import read_base

with read_base():
    from .speech_tiny import _encoder, _optimiser

model = dict(
    type="Pretrainer",
    backbone=_encoder,
    pretexts=dict(
        wav2vec2=dict(
            type="Wav2Vec2",
            mask_length=4,
            mask_variant="transformers",
            entries=32,
            code_dim=64,
            project_dim=64,
            negatives=20,
            gumbel_decay=0.999,
            penalty_weight=0.0,
            feature_drop=0.0,
        )
    ),
)
optim_wrapper = dict(_optimiser, optimizer=dict(type="AdamW", lr=2e-3, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01))
param_scheduler = dict(type="CosineWarmup", warmup_epochs=3, min_lr=0.0, by_step=True)
