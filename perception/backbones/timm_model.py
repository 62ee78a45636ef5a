"""Any network of timm (pytorch-image-models, Wightman, 2019) as a backbone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from perception.backbones.base import Backbone
from perception.backbones.inflation import as_if_inflated, inflate
from perception.backbones.timm_tools import (
    first_layer,
    has_windows,
    layer_groups,
    mean_of_places,
    pooled_dims,
    require_same_stem,
    resample_vit_positions,
    set_image_size,
    small_stem_fault,
    strides_of,
    timm_patch,
    unknown_model,
    use_small_stem,
)
from perception.backbones.vit import pair
from perception.errors import ConfigError, Fault, check_arguments, nearest
from perception.layers.linear import use_fast_linear
from perception.registry import BACKBONES
from perception.transforms.preprocess import Batch, Preprocess

_TRUNK = "trunk."


@BACKBONES.register_module()
class TimmModel(Backbone):
    """A network of timm without its classifier.

    Its parameters lie below ``trunk.``, as in open_clip; state dicts of timm load as they are, classifiers left out.

    Args:
        name: timm's name, such as ``resnet50`` or ``convnext_tiny``; with ``pretrained`` a tag may follow
            (``resnet50.a1_in1k``).
        image_size: height and width, or one number; ``None`` is the Preprocess record's, else the network's own.
            Convolutional networks and plain vision transformers take any other size, too.
        in_channels: bands. A state dict of RGB is inflated to them, by the names of the record's bands.
        pretrained: download timm's weights. Only when asked for; runs and exports never need it again.
        drop_path_rate: stochastic depth.
        preprocess: Preprocess record; ``None`` is the network's own statistics.
        out_indices: stages whose maps ``forward`` returns; negative ones count from the end.
        window_size: side of the windows of attention in patches, for networks that have some; ``None`` lets them grow
            with the image, so that their number stays. Public detectors keep those of the weights: 7 for Swin-T.
        small_images: let a ResNet begin as is usual for 32 pixels: a 3 x 3 convolution of stride 1 and no max-pooling,
            so that its maps have the strides 1, 1, 2, 4 and 8. For those that otherwise begin with 7 x 7; their public
            weights do not fit.

    Features of ``encode``: ``pooled`` what timm's classifier would get; ``gap`` mean over all places of the last map or
    over the patch tokens.
    """

    modality: ClassVar[str] = "image"
    trunk: Any

    def __init__(
        self,
        name: str,
        image_size: int | Sequence[int] | None = None,
        in_channels: int = 3,
        pretrained: bool = False,
        drop_path_rate: float = 0.0,
        preprocess: Preprocess | dict[str, Any] | None = None,
        out_indices: Sequence[int] = (-1,),
        window_size: int | None = None,
        small_images: bool = False,
    ) -> None:
        check_arguments("model.backbone", self.check_config, locals())
        import timm

        extra: dict[str, Any] = {"drop_path_rate": drop_path_rate} if drop_path_rate else {}
        trunk: Any = timm.create_model(name, pretrained=pretrained, num_classes=0, in_chans=in_channels, **extra)
        if small_images:
            use_small_stem(trunk)
        if preprocess is None:
            preprocess = _own_record(trunk, image_size)
        super().__init__(preprocess)
        if window_size is not None and not has_windows(trunk):
            raise ConfigError([Fault("model.backbone.window_size", window_size, f"{name} has no windows")])
        set_image_size(trunk, self.preprocess.shape, window_size)  # type: ignore[attr-defined]
        use_fast_linear(trunk)
        self.trunk = trunk
        self.embed_dims = pooled_dims(trunk)
        strides = strides_of(trunk)
        if any(not -len(strides) <= i < len(strides) for i in out_indices):
            text = f"{name} has {len(strides)} maps"
            raise ConfigError([Fault("model.backbone.out_indices", out_indices, text)])
        self.out_indices = tuple(sorted(i % len(strides) for i in out_indices))
        self.strides = tuple(strides[i] for i in self.out_indices)
        self._groups: tuple[dict[str, int], int] | None = None

    @classmethod
    def feature_choices(cls) -> tuple[str, ...]:
        """Pooled features."""
        return ("pooled", "gap")

    def feature_dims(self, feature: str | None = None) -> int:
        """Width of a feature."""
        return int(self.trunk.num_features) if feature == "gap" else self.embed_dims

    def encode(self, batch: Batch, feature: str | None = None) -> Tensor:
        """Embedding (B, D) of ``batch['image']`` (B, C, H, W); see the class for the features."""
        feature = feature or self.feature_choices()[0]
        if feature not in self.feature_choices():
            known = self.feature_choices()
            raise ConfigError([Fault("feature", feature, f"it has {', '.join(known)}", nearest(feature, known))])
        images = batch[self.modality]
        if feature == "pooled":
            return self.trunk(images)
        return mean_of_places(self.trunk, self.trunk.forward_features(images))

    def token_features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """All tokens or places of the last map; pooled is a class token if there is one, else the mean."""
        features = self.trunk.forward_features(batch[self.modality])
        if features.ndim == 4:
            last = getattr(self.trunk, "output_fmt", "NCHW") == "NHWC"
            features = features.flatten(1, 2) if last else features.flatten(2).transpose(1, 2)
        has_class = features.ndim == 3 and getattr(self.trunk, "cls_token", None) is not None
        return features, features[:, 0] if has_class else features.mean(dim=1)

    @property
    def token_dims(self) -> int:
        """Width of the unpooled features."""
        return int(self.trunk.num_features)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, C, H, W) -> maps (B, D, H / s, W / s) at ``out_indices``."""
        indices = list(self.out_indices)
        return tuple(self.trunk.forward_intermediates(x, indices=indices, intermediates_only=True))

    def adapt_state(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Keys of timm go below ``trunk.``, its classifier left out; positions and first layer fitted to this input."""
        own = self.state_dict()
        out = dict(state)
        if not any(key.startswith(_TRUNK) for key in out):
            heads = self.trunk.default_cfg.get("classifier") or ()
            heads = (heads,) if isinstance(heads, str) else tuple(heads)
            dropped = tuple(f"{head}." for head in heads)
            out = {
                _TRUNK + k: v for k, v in out.items() if _TRUNK + k in own or not (dropped and k.startswith(dropped))
            }
        positions, key = _TRUNK + "pos_embed", f"{_TRUNK}{first_layer(self.trunk)}.weight"
        given, wanted = out.get(positions), own.get(positions)
        if given is not None and wanted is not None and given.ndim == wanted.ndim == 3:
            same_width = given.shape[-1] == wanted.shape[-1]
            if same_width and given.shape != wanted.shape:
                out[positions] = resample_vit_positions(self.trunk, given)
        weight = out.get(key)
        if weight is not None and key in own and weight.ndim == 4 and weight.shape[1] == 3 != own[key].shape[1]:
            out[key] = inflate(weight, self.preprocess.bands)  # type: ignore[attr-defined]
        if weight is not None and key in own:
            require_same_stem(self.trunk, weight, own[key])
        return out

    def require_compatible(self, record: Mapping[str, Any], source: str) -> None:
        """As the base's; weights of RGB may start a network of more bands."""
        super().require_compatible(as_if_inflated(record, self.preprocess), source)

    @classmethod
    def bare_config(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Without timm's weights, which the recorded ones replace."""
        return {**config, "pretrained": False}

    def layer_count(self) -> int:
        """The groups that timm makes, then what comes after the network."""
        return self._layer_groups()[1] + 2

    def layer_id(self, name: str) -> int:
        """Layer-decay group of a parameter, as timm makes them."""
        groups, last = self._layer_groups()
        return groups.get(name.removeprefix(_TRUNK), last)

    def _layer_groups(self) -> tuple[dict[str, int], int]:
        if self._groups is None:
            self._groups = layer_groups(self.trunk)
        return self._groups

    @classmethod
    def patch_of(cls, cfg: Mapping[str, Any]) -> tuple[int, int]:
        """Rows and columns of a patch of a plain vision transformer; 1 for other networks."""
        return timm_patch(cfg["name"])

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config (with defaults filled in) that would stop it from being built or used."""
        wrong = unknown_model(cfg["name"])
        if wrong:
            yield "name", wrong
        if not isinstance(cfg["in_channels"], int) or cfg["in_channels"] < 1:
            yield "in_channels", "must be a whole number of at least 1"
        if not 0 <= cfg["drop_path_rate"] < 1:
            yield "drop_path_rate", "must lie in [0, 1)"
        if not cfg["out_indices"]:
            yield "out_indices", "must name at least one map"
        size, record = cfg["image_size"], cfg["preprocess"]
        if size is not None and min(pair(size)) < 1:
            yield "image_size", "must be positive"
        if cfg["small_images"] and not wrong:
            fault = small_stem_fault(cfg["name"])
            if fault:
                yield "small_images", fault
            elif cfg["pretrained"]:
                yield "small_images", "the weights that pretrained=True downloads begin with a convolution of 7 x 7"
        if cfg["window_size"] is not None and cfg["window_size"] < 1:
            yield "window_size", "must be a whole number of at least 1"
        if record is None:
            if cfg["in_channels"] != 3:
                yield "preprocess", f"must be given for in_channels = {cfg['in_channels']}: the own record is for RGB"
            return
        values = record.record() if isinstance(record, Preprocess) else record
        if isinstance(values.get("mean"), (list, tuple)) and len(values["mean"]) != cfg["in_channels"]:
            yield "preprocess", f"has {len(values['mean'])} band means, but in_channels = {cfg['in_channels']}"
        if size is not None and values.get("size") is not None and pair(values["size"]) != pair(size):
            yield "preprocess", f"makes images of {pair(values['size'])}, but image_size = {size!r}"


def _own_record(trunk: Any, image_size: Any) -> dict[str, Any]:
    """Preprocess record of the statistics that timm states for a network."""
    cfg = trunk.pretrained_cfg
    interpolation = cfg.get("interpolation", "bicubic")
    return {
        "type": "ImagePreprocess",
        "size": pair(image_size) if image_size is not None else tuple(cfg["input_size"][1:]),
        "mean": tuple(cfg["mean"]),
        "std": tuple(cfg["std"]),
        "interpolation": interpolation if interpolation in ("bilinear", "bicubic") else "bicubic",
        "crop_fraction": float(cfg.get("crop_pct") or 1.0),
    }
