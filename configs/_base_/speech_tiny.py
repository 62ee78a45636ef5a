"""A small encoder of speech at 8 kHz, as wav2vec 2.0 LARGE with a frame each 20 ms, and how it is trained."""

_rate = 8000
_encoder = dict(
    type="SpeechEncoder",
    preset=None,
    embed_dim=96,
    depth=2,
    num_heads=4,
    ffn_dim=192,
    norm="layer",
    conv_gradient=1.0,
    conv_dim=64,
    conv_kernels=(10, 3, 3, 3, 3, 2),
    conv_strides=(5, 2, 2, 2, 2, 2),  # 160 samples
    pos_kernel=16,
    pos_groups=8,
    preprocess=dict(type="SpeechPreprocess", sample_rate=_rate, normalize="utterance"),
)
_optimiser = dict(
    type="AutocastOptimWrapper",
    dtype="float32",
    clip_grad=1.0,
    constructor="LayerDecay",  # no decay of biases and norms
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
)
