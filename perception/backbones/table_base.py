"""What encoders of tables, and of tables with images, share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from perception.backbones.base import Backbone
from perception.errors import ConfigError, DataError, Fault
from perception.registry import BACKBONES
from perception.transforms.image_preprocess import ImagePreprocess
from perception.transforms.preprocess import Batch, Preprocess
from perception.transforms.table_image_preprocess import TableImagePreprocess

BRANCHES = ("image_backbone", "table_backbone")
PARTS = ("multimodal", "image", "table")


class TableBackbone(Backbone):
    """Base of the encoders of tables with missing cells.

    Attributes:
        categories: number of codes K of every categorical column; these columns come first.
        continuous: number of continuous columns.
    """

    modality: ClassVar[str] = "table"
    preprocess: TableImagePreprocess

    def __init__(self, preprocess: Preprocess | dict[str, Any] | None) -> None:
        if preprocess is None:
            text = "a table encoder is made for the columns of a record: give a TableImagePreprocess"
            raise ConfigError([Fault("model.backbone.preprocess", None, text)])
        super().__init__(preprocess)
        record = require_table_record(self.preprocess)
        self.categories, self.continuous = record.categories, record.continuous

    @property
    def columns(self) -> int:
        """Number of columns N."""
        return len(self.categories) + self.continuous

    @abstractmethod
    def pooled(self, table: Tensor, missing: Tensor) -> Tensor:
        """Embedding (B, D) of preprocessed cells (B, N), of which some are ``missing`` (B, N) bool."""

    def encode(self, batch: Batch, feature: str | None = None) -> Tensor:
        """Embedding (B, D) of the table of a preprocessed batch."""
        self.require_feature(feature)
        return self.pooled(*table_of(batch, type(self).__name__, self.columns))

    def raw_features(self, batch: Batch) -> Tensor:
        """The table as numbers, one column a category; 0 where a cell is missing."""
        return self.preprocess.one_hot(*table_of(batch, type(self).__name__, self.columns))

    def baselines(self, batch: Batch) -> dict[str, Tensor]:
        """``raw``, the table as numbers, and ``mask``, what the holes alone tell."""
        found = self.preprocess.baselines(batch)
        return {"raw": found["table"], "mask": found["mask"]}

    def describe(self) -> dict[str, str]:
        """What a dry run prints."""
        kinds = f"{len(self.categories)} categorical ({sum(self.categories)} values), {self.continuous} continuous"
        return {"columns": kinds}


class TableImageBackbone(Backbone):
    """Base of the encoders of images with tables: two branches, each a whole backbone, and what joins them.

    Features of ``encode``: ``multimodal`` (B, D) of both together; ``image`` the pooled feature of the image branch;
    ``table`` that of the table branch; these two run one branch alone. ``all`` is the three side by side.

    A batch may lack the image, the table or, by ``image_missing`` (B,) bool, the images of some rows, see the subclass
    for what stands in for them. One of the two must be there.

    Args:
        image_backbone: config of a backbone of images; with ``init_from`` it starts from a run or export of its own.
        table_backbone: config of a backbone of tables; likewise.
        preprocess: the record of both, a ``TableImagePreprocess``. The image branch may state an ``ImagePreprocess``
            of its own, which then must say the same.
    """

    modality: ClassVar[str] = "tabular_image"
    preprocess: TableImagePreprocess

    def __init__(
        self,
        image_backbone: Mapping[str, Any],
        table_backbone: Mapping[str, Any],
        preprocess: Preprocess | dict[str, Any],
    ) -> None:
        super().__init__(preprocess)
        require_table_record(self.preprocess)
        self.image_backbone: Backbone = BACKBONES.build(self._image_config(image_backbone))
        self.table_backbone: TableBackbone = BACKBONES.build({**table_backbone, "preprocess": self.preprocess})

    def _image_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        own = ImagePreprocess(**{name: getattr(self.preprocess, name) for name in ImagePreprocess.field_names()})
        stated = config.get("preprocess")
        if stated is not None:
            stated = stated if isinstance(stated, Preprocess) else ImagePreprocess(**_without_type(stated))
            stated.require_same(own.record(), "model.backbone.preprocess")
        return {**config, "preprocess": own}

    @property
    def categories(self) -> tuple[int, ...]:
        """Number of codes of every categorical column."""
        return self.table_backbone.categories

    @property
    def continuous(self) -> int:
        """Number of continuous columns."""
        return self.table_backbone.continuous

    def table_of(self, batch: Batch, rows: int | None = None) -> tuple[Tensor, Tensor]:
        """Cells (B, N) and which are missing, (B, N) bool. Without a table all cells of ``rows`` rows are missing.

        Raises:
            DataError: there is no table and nothing tells the number of rows.
        """
        if batch.get("table") is None and rows is not None:
            device = next(self.parameters()).device
            table = torch.zeros(rows, self.table_backbone.columns, device=device)
            return table, torch.ones_like(table, dtype=torch.bool)
        return table_of(batch, type(self).__name__, self.table_backbone.columns)

    def image_of(self, batch: Batch) -> Tensor | None:
        """Normalised images (B, C, H, W), ``None`` where the batch has none.

        Raises:
            DataError: there is neither an image nor a table.
        """
        image = batch.get("image")
        if image is None and batch.get("table") is None:
            raise DataError(f"{type(self).__name__} reads 'image' and 'table', but the batch holds {sorted(batch)}")
        return image

    def image_tokens(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Tokens (B, T, C) of the images and their pooled feature (B, C).

        Raises:
            DataError: the batch has no image.
        """
        if batch.get("image") is None:
            raise DataError(f"the feature 'image' needs images, but the batch holds {sorted(batch)}")
        return self.image_backbone.token_features({self.image_backbone.modality: batch["image"]})

    def forward(self, x: Batch) -> tuple[Tensor, ...]:
        """Preprocessed batch -> maps of the image branch at its ``out_indices``."""
        return self.image_backbone(x["image"])

    @classmethod
    def feature_choices(cls) -> tuple[str, ...]:
        """Pooled features."""
        return (*PARTS, "all")

    def feature_dims(self, feature: str | None = None) -> int:
        """Width of a feature."""
        name = self.require_feature(feature)
        sizes = {"image": self.image_backbone.token_dims, "table": self.table_backbone.embed_dims}
        sizes["all"] = self.embed_dims + sum(sizes.values())
        return sizes.get(name, self.embed_dims)

    def encode(self, batch: Batch, feature: str | None = None) -> Tensor:
        """One feature (B, D) of a preprocessed batch; see the class."""
        name = self.require_feature(feature)
        return self.encode_features(batch, (name,))[name]

    def encode_features(self, batch: Batch, features: Sequence[str]) -> dict[str, Tensor]:
        """Several features by name; every branch runs at most once."""
        for name in features:
            self.require_feature(name)
        whole = "all" in features
        found = self.parts(batch, PARTS if whole else features)
        if whole:
            found["all"] = torch.cat([found[name] for name in PARTS], dim=1)
        return {name: found[name] for name in features}

    @abstractmethod
    def parts(self, batch: Batch, features: Sequence[str]) -> dict[str, Tensor]:
        """Those of ``multimodal``, ``image`` and ``table`` that are asked for, or more."""

    def unused_parts(self, feature: str | None = None) -> list[nn.Module | nn.Parameter]:
        """What the features of one branch do not pass."""
        name = self.require_feature(feature)
        if name in ("multimodal", "all"):
            return []
        used = f"{name}_backbone"
        return [child for key, child in self.named_children() if key != used]

    def raw_features(self, batch: Batch) -> Tensor:
        """Pixels on a grid of at most 16 x 16 and the table as numbers."""
        return self.preprocess.baselines(batch)["raw"]

    def baselines(self, batch: Batch) -> dict[str, Tensor]:
        """``raw``; ``pixels`` and ``table`` alone; and ``mask``, what the holes of the table alone tell."""
        return {name: value for name, value in self.preprocess.baselines(batch).items() if name != "pixels + table"}

    def adapt_state(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """What the branches convert, such as positions of another image size."""
        out = {k: v for k, v in state.items() if not k.startswith(tuple(f"{name}." for name in BRANCHES))}
        for name in BRANCHES:
            branch: Backbone = getattr(self, name)
            inner = {k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")}
            out |= {f"{name}.{key}": value for key, value in branch.adapt_state(inner).items()}
        return out

    @classmethod
    def bare_config(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Without the weights that the branches start from, which the recorded ones replace."""
        out = dict(config)
        for name in BRANCHES:
            branch = {key: value for key, value in (config.get(name) or {}).items() if key != "init_from"}
            kind: Any = BACKBONES.get(str(branch.get("type")))
            if kind is not None:
                out[name] = kind.bare_config(branch)
        return out

    @classmethod
    def patch_of(cls, cfg: Mapping[str, Any]) -> tuple[int, int]:
        """Rows and columns of the patches of the image branch."""
        kind: Any = BACKBONES.get(str(cfg["image_backbone"].get("type")))
        return kind.patch_of(cfg["image_backbone"])

    def _fused_layers(self) -> int:
        """Number of layer-decay groups between the branches and the head."""
        return 1

    def _fused_layer(self, name: str) -> int:
        """The group, from 0, of a parameter of what joins the branches."""
        return 0

    def layer_count(self) -> int:
        """The groups of the deeper branch, then those of what joins them, then the head."""
        return max(getattr(self, name).layer_count() for name in BRANCHES) + self._fused_layers()

    def layer_id(self, name: str) -> int:
        """Layer-decay group of a parameter; branches of different depths end together."""
        after = self.layer_count() - 1 - self._fused_layers()
        head, _, rest = name.partition(".")
        if head in BRANCHES:
            branch: Backbone = getattr(self, head)
            return branch.layer_id(rest) + after + 1 - branch.layer_count()
        return after + self._fused_layer(name)

    def describe(self) -> dict[str, str]:
        """What a dry run prints."""
        branches = f"{type(self.image_backbone).__name__} and {type(self.table_backbone).__name__}"
        return {"branches": branches, **self.table_backbone.describe()}

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config (with defaults filled in) that would stop it from being built."""
        for name, modality in zip(BRANCHES, ("image", "table"), strict=True):
            branch = cfg[name]
            kind: Any = BACKBONES.get(str(branch.get("type"))) if isinstance(branch, Mapping) else None
            if kind is None or getattr(kind, "modality", None) != modality:
                found = branch.get("type") if isinstance(branch, Mapping) else branch
                yield name, f"needs the 'type' of a backbone of {modality}s, not {found!r}"
        if isinstance(cfg["table_backbone"], Mapping) and cfg["table_backbone"].get("preprocess") is not None:
            yield "table_backbone", "has a preprocess, but the record of the whole backbone holds for it: leave it out"


def table_of(batch: Batch, name: str, columns: int) -> tuple[Tensor, Tensor]:
    """Cells (B, N) float32 of a preprocessed batch, and which of them are missing, (B, N) bool.

    Raises:
        DataError: the batch has no table, or one of another number of columns.
    """
    table = batch.get("table")
    if not isinstance(table, Tensor):
        raise DataError(f"{name} reads 'table', but the batch holds {sorted(batch)}")
    if table.ndim != 2 or table.shape[1] != columns:
        raise DataError(f"{name} was made for tables of {columns} columns, not of shape {tuple(table.shape)}")
    missing = batch.get("table_missing")
    return table, torch.zeros_like(table, dtype=torch.bool) if missing is None else missing


def require_table_record(record: Preprocess) -> TableImagePreprocess:
    """The record, if it knows the columns of a table.

    Raises:
        ConfigError: it does not.
    """
    if not isinstance(record, TableImagePreprocess):
        text = "knows no columns; a table needs a TableImagePreprocess"
        raise ConfigError([Fault("model.backbone.preprocess", type(record).__name__, text)])
    return record


def _without_type(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "type"}
