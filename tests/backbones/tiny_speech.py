"""Tiny speech encoders, and transformers' models of the same sizes."""

import torch

from perception.backbones.speech_config import model_of
from perception.backbones.speech_encoder import SpeechEncoder

SIZES = dict(preset=None, embed_dim=32, depth=3, num_heads=4, ffn_dim=48, conv_dim=16, pos_kernel=8, pos_groups=4)


def tiny(norm="layer", architecture="wav2vec2", **changes):
    return SpeechEncoder(architecture, norm=norm, **{**SIZES, "conv_gradient": 1.0, **changes})


def public_config(norm="layer", architecture="wav2vec2", **changes):
    config, _ = model_of(architecture)
    off = dict.fromkeys(
        ("hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout", "layerdrop"), 0.0
    )
    return config(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        conv_dim=(16,) * 7,
        conv_bias=norm == "layer" and architecture != "wavlm",
        feat_extract_norm=norm,
        do_stable_layer_norm=norm == "layer",
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=4,
        **{**off, **changes},
    )


def public(norm="layer", architecture="wav2vec2"):
    return model_of(architecture)[1](public_config(norm, architecture)).eval()


@torch.no_grad()
def shake(model):
    """Random values for every parameter: norms and biases start where faults would not show."""
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def clips(*lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    audio = torch.zeros(len(lengths), max(lengths))
    for row, length in enumerate(lengths):
        audio[row, :length] = torch.randn(length, generator=generator)
    return {"audio": audio, "audio_length": torch.tensor(lengths)}
