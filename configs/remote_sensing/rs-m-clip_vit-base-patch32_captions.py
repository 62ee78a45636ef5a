"""RS-M-CLIP (SIGSPATIAL 2024): XLM-R and ViT-B/32 tuned in ten languages with self-distillation, at full size.

Its training code and settings are unpublished: batch, rate, decay, epochs and warm-up are those of GeoRSCLIP's tuning,
the self-distillation is DINO's with SILC's crops and fixed momentum. Mean recall to beat, the best figures that the
paper claims to surpass: RSICD 38.87, RSITMD 51.81, UCM-Captions 56.36. Written for one GPU of 80 GB; not run here.

data/captions/<corpus> holds the corpus, exclude.txt (tools/leak_check.py) and translations.json of the nine further
languages: {filename: {language: [texts]}}. The public start weights are converted once by
tools/convert_weights.py open_clip_pytorch_model.bin open_clip:xlm-roberta-base-ViT-B-32 --no-quick-gelu
--out exports/clip_xlm-roberta-base_vit-base-patch32_laion5b
(from laion/CLIP-ViT-B-32-xlm-roberta-base-laion5B-s13B-b90k).
"""

from mmengine.config import read_base

with read_base():
    from .._base_.clip_caption_corpora import *

_languages = ("en", "pt", "es", "fr", "de", "nl", "it", "zh", "ko", "ru")
_trained_on = dict(
    RSICD="rsicd",
    RSITMD="rsitmd",
    UCMCaptions="ucm_captions",
    SydneyCaptions="sydney_captions",
    NWPUCaptions="nwpu_captions",
)

model = dict(
    type="Pretrainer",
    backbone=dict(
        type="CLIP",
        model="xlm-roberta-base-ViT-B-32",
        quick_gelu=False,  # LAION's weights
        init_from="exports/clip_xlm-roberta-base_vit-base-patch32_laion5b",
        preprocess=dict(
            type="ImageTextPreprocess",
            size=224,
            mean=(0.48145466, 0.4578275, 0.40821073),
            std=(0.26862954, 0.26130258, 0.27577711),
            tokenizer=dict(type="HFTokenizer", name="xlm-roberta-base", context_length=77),
        ),
    ),
    pretexts=dict(
        image_text=dict(type="ImageText", views="globals", targets="multi_positive"),  # captions repeat
        distill=dict(
            type="SelfDistillation",
            feature="pooled",  # the class token before the projection that texts are compared in
            prototypes=65536,
            hidden_dim=2048,
            bottleneck_dim=256,
            student_temperature=0.1,
            teacher_temperature=(0.04, 0.07),
            momentum=0.996,  # fixed: a momentum that rises to 1 would keep the teacher from learning from texts
            centre_momentum=0.9,
        ),
    ),
    balance={"image_text.loss": 1.0, "distill.loss": 1.0},
)

train_dataloader["dataset"].update(
    datasets=[
        dict(
            type=name,
            root=f"{_root}/{folder}",
            split="train",
            translations=f"{_root}/{folder}/translations.json",
            exclude=f"{_root}/{folder}/exclude.txt",
            size=None,  # MultiCrop cuts from the images as they are
        )
        for name, folder in _trained_on.items()
    ],
    transforms=[
        dict(type="PickCaption", mode="language_uniform"),
        dict(
            type="MultiCrop",
            size=224,
            local_size=96,
            global_views=2,
            local_views=8,
            scale=(0.4, 1.0),
            local_scale=(0.05, 0.4),
        ),
    ],
)
evaluation["protocols"].update(
    {
        f"retrieval_{folder}_languages": dict(
            type="Retrieval",
            rules="georsclip",
            languages=_languages,
            dataset=dict(
                type=name, root=f"{_root}/{folder}", split="test", translations=f"{_root}/{folder}/translations.json"
            ),
        )
        for name, folder in _corpora.items()
    },
    zero_shot_languages=dict(type="ZeroShot", class_names="rsicd30", languages=_languages),
)
