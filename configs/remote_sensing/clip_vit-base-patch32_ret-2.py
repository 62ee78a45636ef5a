"""GeoRSCLIP's tuning on RET-2 (TGRS 2024), CLIP ViT-B/32 on RSICD and RSITMD: mean recall 38.87 and 51.81 there.

Batch 600, AdamW 5e-6 with decay 0.5, 7 epochs, 100 warm-up steps, gradients clipped at 50, crops of 90 to 100 % of the
area and flips, all as its authors state; they turn images by any angle, here by right angles. Written for one GPU of
80 GB; not run here. Public reproductions miss 2 to 4 points of mean recall regularly.

data/captions/{rsicd,rsitmd} hold the corpora and exclude.txt (tools/leak_check.py). The start weights, GeoRSCLIP's
RS5M_ViT-B-32.pt (CLIP's own OpenAI weights work, too), are converted once by
tools/convert_weights.py RS5M_ViT-B-32.pt open_clip:ViT-B-32 --quick-gelu --out exports/georsclip_vit-base-patch32
"""

from mmengine.config import read_base

with read_base():
    from .._base_.clip_caption_corpora import *

model = dict(
    type="Pretrainer",
    backbone=dict(
        type="CLIP",
        model="ViT-B-32",
        quick_gelu=True,  # the weights descend from OpenAI's
        init_from="exports/georsclip_vit-base-patch32",
        preprocess=dict(
            type="ImageTextPreprocess",
            size=224,
            mean=(0.48145466, 0.4578275, 0.40821073),
            std=(0.26862954, 0.26130258, 0.27577711),
            tokenizer=dict(type="CLIPTokenizer", context_length=77),
        ),
    ),
    pretexts=dict(image_text=dict(type="ImageText")),
)

train_dataloader["dataset"].update(
    datasets=[
        dict(
            type=name,
            root=f"{_root}/{folder}",
            split="train",
            exclude=f"{_root}/{folder}/exclude.txt",
            size=None,  # MultiCrop cuts from the images as they are
        )
        for name, folder in (("RSICD", "rsicd"), ("RSITMD", "rsitmd"))
    ],
    transforms=[
        dict(type="PickCaption"),
        dict(type="MultiCrop", size=224, global_views=1, local_views=0, scale=(0.9, 1.0)),
    ],
)
