"""Tiny CLIPs of every kind, and the same models built by open_clip alone."""

import torch

WORDS = ["river", "forest", "a", "of", "photo", "two", "planes", "many", "green", "trees"]
VIT = dict(
    embed_dim=24,
    vision_cfg=dict(layers=3, width=32, head_width=16, patch_size=8, image_size=32),
    text_cfg=dict(layers=2, width=32, heads=2),
)
RESNET = dict(embed_dim=24, vision_cfg=dict(layers=[1, 1, 1, 1], width=8, image_size=64), text_cfg=VIT["text_cfg"])
XLM_R = dict(
    model_type="xlm-roberta",
    vocab_size=300,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=48,
    max_position_embeddings=40,
    type_vocab_size=1,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=257,
)
HF = dict(
    embed_dim=24,
    vision_cfg=VIT["vision_cfg"],
    text_cfg=dict(hf_model_name="tiny", hf_config=XLM_R, hf_pooler_type="mean_pooler"),
)
TIMM = dict(
    embed_dim=24,
    vision_cfg=dict(timm_model_name="convnext_atto", timm_pool="", timm_proj="linear", image_size=64),
    text_cfg=VIT["text_cfg"],
)
TIMM_HEAD = dict(  # timm's own classifier projects, as in EVA02 and MobileCLIP
    embed_dim=24,
    custom_text=True,
    vision_cfg=dict(timm_model_name="convnext_atto", timm_pool="avg", timm_proj=None, image_size=64),
    text_cfg=VIT["text_cfg"],
)
SIGLIP = dict(
    embed_dim=192,
    init_logit_bias=-10,
    custom_text=True,
    vision_cfg=dict(timm_model_name="vit_tiny_patch16_224", timm_pool="token", timm_proj="none", image_size=64),
    text_cfg=dict(
        layers=2, width=32, heads=2, no_causal_mask=True, proj_bias=True, pool_type="last", norm_kwargs=dict(eps=1e-6)
    ),
)
COCA = dict(
    embed_dim=24,
    custom_text=True,
    multimodal_cfg=dict(context_length=8, vocab_size=13, width=32, heads=2, layers=1),
    vision_cfg=dict(**VIT["vision_cfg"], attentional_pool=True, attn_pooler_heads=2, output_tokens=True),
    text_cfg=dict(layers=2, width=32, heads=2, embed_cls=True, output_tokens=True, context_length=7),
)
PLUS = dict(  # norms in unusual places, mean pooling, scaled residuals, bidirectional texts in the plain layout
    embed_dim=24,
    vision_cfg=dict(
        **VIT["vision_cfg"], no_ln_pre=True, pool_type="avg", final_ln_after_pool=True, ls_init_value=0.5, mlp_ratio=2
    ),
    text_cfg=dict(layers=2, width=32, heads=2, no_causal_mask=True, pool_type="first", ls_init_value=0.3),
)
CUSTOM = dict(
    embed_dim=24,
    vision_cfg=dict(**VIT["vision_cfg"], qk_norm=True, scale_fc=True),
    text_cfg=dict(layers=2, width=32, heads=2, scale_attn=True),
)
KINDS = dict(
    vit=VIT,
    resnet=RESNET,
    xlm_r=HF,
    timm=TIMM,
    timm_head=TIMM_HEAD,
    siglip=SIGLIP,
    coca=COCA,
    unusual=PLUS,
    custom_blocks=CUSTOM,
)
TEXTS = ["a photo of a river", "forest", "many green trees of many planes of two", "unheard words"]


def words(context_length=8):
    return dict(type="WordTokenizer", words=WORDS, context_length=context_length)


def record(model, tokenizer=None, **changes):
    """Preprocess record for one of the models above."""
    if tokenizer is None:
        by_bytes = "hf_config" in model["text_cfg"]
        length = model["text_cfg"].get("context_length", 8)
        tokenizer = dict(type="ByteTokenizer", context_length=36) if by_bytes else words(length)
    values = dict(type="ImageTextPreprocess", size=model["vision_cfg"]["image_size"], tokenizer=tokenizer)
    return {**values, **changes}


def build(model, seed=0, **changes):
    """Ours, in eval mode, with every parameter drawn, zero-initialised ones too."""
    from perception.backbones.clip import CLIP

    torch.manual_seed(seed)
    backbone = CLIP(model, **{"preprocess": record(model), **changes}).eval()
    for name, parameter in backbone.named_parameters():
        if parameter.ndim < 2 and not name.startswith("logit"):
            torch.nn.init.normal_(parameter, 0.1 if "bias" in name else 1.0, 0.2)
    return backbone


def theirs(model, backbone, quick_gelu=False):
    """open_clip's model of the same config with random weights, in eval mode."""
    import open_clip

    top = {k: v for k, v in model.items() if k not in ("vision_cfg", "text_cfg", "multimodal_cfg", "custom_text")}
    vision, text = dict(model["vision_cfg"]), dict(model["text_cfg"])
    sizes = dict(vocab_size=backbone.tokenizer.vocab_size, context_length=backbone.tokenizer.context_length)
    torch.manual_seed(1)
    if "hf_config" in text:
        from open_clip.hf_model import HFTextEncoder
        from transformers import AutoConfig

        built = open_clip.CustomTextCLIP(
            **top,
            vision_cfg=open_clip.CLIPVisionCfg(**vision),
            text_cfg=open_clip.CLIPTextCfg(layers=1, width=8, heads=1, vocab_size=2, context_length=2),
            quick_gelu=quick_gelu,
        )
        config = AutoConfig.for_model(**text["hf_config"])
        built.text = HFTextEncoder("tiny", top["embed_dim"], config, text["hf_pooler_type"], "mlp", pretrained=False)
        built.text.transformer.pooler = None
        return built.eval()
    text_cfg = open_clip.CLIPTextCfg(**{**sizes, **text})
    if "multimodal_cfg" in model:
        built = open_clip.CoCa(
            **top,
            vision_cfg=open_clip.CLIPVisionCfg(**vision),
            text_cfg=text_cfg,
            multimodal_cfg=model["multimodal_cfg"],
        )
        return built.eval()
    cls = open_clip.CustomTextCLIP if model.get("custom_text") else open_clip.CLIP
    built = cls(**top, vision_cfg=open_clip.CLIPVisionCfg(**vision), text_cfg=text_cfg, quick_gelu=quick_gelu)
    if hasattr(built.visual, "set_input_size"):
        built.visual.set_input_size(vision["image_size"])
    return built.eval()


def whole_context(backbone, texts):
    """Token ids padded to the whole context, as open_clip takes them."""
    ids, _ = backbone.tokenizer(texts)
    length = backbone.tokenizer.context_length
    return torch.nn.functional.pad(ids, (0, length - ids.shape[1]), value=backbone.tokenizer.pad_id)
