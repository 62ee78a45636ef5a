"""The public caption corpora of remote sensing in their official layouts, and captions alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from perception.datasets.base import data_root
from perception.datasets.caption_files import CaptionFiles, Texts, file_faults, option_faults, require
from perception.datasets.captions import CaptionedImages
from perception.errors import DataError
from perception.registry import DATASETS
from perception.transforms.base import Transform


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


RSICD_CLASSES = _names(
    "airport bareland baseballfield beach bridge center church commercial denseresidential desert farmland forest "
    "industrial meadow mediumresidential mountain park parking playground pond port railwaystation resort river "
    "school sparseresidential square stadium storagetanks viaduct"
)
RSITMD_CLASSES = tuple(sorted([*RSICD_CLASSES, "boat", "intersection"]))
UCM_CLASSES = _names(
    "agricultural airplane baseballdiamond beach buildings chaparral denseresidential forest freeway golfcourse harbor "
    "intersection mediumresidential mobilehomepark overpass parkinglot river runway sparseresidential storagetanks "
    "tenniscourt"
)


class OfficialCaptions(CaptionFiles):
    """A corpus that knows its files. ``root`` holds the caption file and the folder of images; see ``CaptionFiles``.

    Args:
        root: folder of the corpus; None is ``$PERCEPTION_DATA/<area>``.
        split: a split that the file names, such as ``train``, ``val`` or ``test``, or several.
        file: another caption file, or folder of text files, below ``root``, such as AMFMN's; None is the official one.
        translations: see ``CaptionFiles``.
        languages: see ``CaptionFiles``.
        text_form: see ``CaptionFiles``.
        missing: see ``CaptionFiles``.
        empty: see ``CaptionFiles``.
        exclude: see ``CaptionFiles``.
        size: see ``CaptionFiles``.
        interpolation: see ``CaptionFiles``.
        in_memory: see ``CaptionFiles``.
        transforms: see ``Dataset``.
        seed: see ``Dataset``.
    """

    AREA: ClassVar[str]
    FILES: ClassVar[tuple[str, ...]]
    FOLDERS: ClassVar[tuple[str, ...]]
    SOURCES: ClassVar[tuple[str, ...]]
    CLASSES: ClassVar[Sequence[str] | None] = None
    HOME: ClassVar[str] = "https://github.com/201528014227051/RSICD_optimal"

    def __init__(
        self,
        root: str | None = None,
        split: str | Sequence[str] | None = "train",
        file: str | None = None,
        translations: str | Mapping[str, str] | None = None,
        languages: Sequence[str] | None = None,
        text_form: str = "as_is",
        missing: str = "error",
        empty: str = "error",
        exclude: str | Sequence[str] | None = None,
        size: int | None = 224,
        interpolation: str = "bicubic",
        in_memory: bool | None = None,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        options = {
            "text_form": text_form,
            "missing": missing,
            "empty": empty,
            "size": size,
            "interpolation": interpolation,
            "in_memory": in_memory,
        }
        require(type(self).__name__, options)
        path, folder = self._find(root, file)
        texts = Texts(
            path,
            split,
            translations,
            "en",
            languages,
            text_form,
            self.CLASSES,
            missing,
            empty,
            exclude,
            self.class_of,
        )
        texts.load(folder)
        self._finish(texts, folder, options, self.SOURCES, transforms, seed)

    @classmethod
    def class_of(cls, filename: str) -> str | None:
        """Class name in a file name, ``airport_116.jpg``; None where the name is a number."""
        match = re.fullmatch(r"([A-Za-z]+)_?\d*", Path(filename).stem)
        return match[1].lower() if match else None

    @classmethod
    def _find(cls, root: str | None, file: str | None) -> tuple[Path, Path]:
        """The caption file and the folder of images.

        Raises:
            DataError: one is not there, saying what would be.
        """
        hint = f"It must hold {cls.FILES[0]} and {cls.FOLDERS[0]}/, see {cls.HOME}."
        base = data_root(root, cls.AREA, hint)
        files = cls.FILES if file is None else (file,)
        found = [base / name for name in files if (base / name).exists()]
        if not found:
            raise DataError(f"{cls.__name__}: none of {list(files)} is in {str(base)!r}. {hint}")
        folders = [base / name for name in cls.FOLDERS if (base / name).is_dir()]
        if not folders:
            raise DataError(f"{cls.__name__}: none of the folders {list(cls.FOLDERS)} is in {str(base)!r}. {hint}")
        return found[0], folders[0]

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config: missing files, unknown choices."""
        yield from option_faults(cfg)
        yield from file_faults(cfg)
        try:
            cls._find(cfg["root"], cfg["file"])
        except DataError as error:
            yield "root", str(error)


@DATASETS.register_module()
class RSICD(OfficialCaptions):
    """RSICD ("Exploring Models and Data for Remote Sensing Image Caption Generation", Lu et al., 2018).

    10,921 images of 224 x 224 (8,734 / 1,094 / 1,093), five captions each; ``dataset_rsicd.json`` and ``RSICD_images``.
    The class is in the file name; files with a number for a name have none.
    """

    AREA = "rsicd"
    FILES = ("dataset_rsicd.json", "annotations/dataset_rsicd.json", "annotations_rsicd/dataset_rsicd.json")
    FOLDERS = ("RSICD_images", "images")
    SOURCES = ("RSICD",)
    CLASSES = RSICD_CLASSES


@DATASETS.register_module()
class RSITMD(OfficialCaptions):
    """RSITMD ("Exploring a Fine-Grained Multiscale Method for Cross-Modal Remote Sensing Image Retrieval", Yuan, 2021).

    4,743 images of 256 x 256, five captions each; ``dataset_RSITMD.json`` and ``images``. The official file has
    ``train`` (4,291) and ``test`` (452); newer ones part 859 from ``train`` as ``val``. 267 test images are RSICD
    train images by name: use ``exclude`` when you train on both.
    """

    AREA = "rsitmd"
    FILES = ("dataset_RSITMD.json", "dataset_rsitmd.json")
    FOLDERS = ("images", "RSITMD_images")
    SOURCES = ("RSITMD", "RSICD")
    CLASSES = RSITMD_CLASSES
    HOME = "https://github.com/xiaoyuan1996/AMFMN"


@DATASETS.register_module()
class UCMCaptions(OfficialCaptions):
    """UCM-Captions ("Deep Semantic Understanding of High Resolution Remote Sensing Image", Qu et al., 2016).

    2,100 images of 256 x 256 (1,680 / 210 / 210), five captions each; ``dataset.json`` or ``filenames/`` with
    ``descriptions_UCM.txt``, and ``imgs`` or ``images``. Files 1.tif to 100.tif are the first class of UC Merced,
    and so on.
    """

    AREA = "ucm_captions"
    FILES = ("dataset.json", "dataset_ucmd.json", "filenames")
    FOLDERS = ("imgs", "images", "UCM_imgs")
    SOURCES = ("UCM-Captions", "UC Merced")
    CLASSES = UCM_CLASSES

    @classmethod
    def class_of(cls, filename: str) -> str | None:
        """Class of file ``n.tif``: 100 images each, in the order of UC Merced's folders."""
        stem = Path(filename).stem
        if not stem.isdigit() or not 1 <= int(stem) <= 100 * len(UCM_CLASSES):
            return None
        return UCM_CLASSES[(int(stem) - 1) // 100]


@DATASETS.register_module()
class SydneyCaptions(OfficialCaptions):
    """Sydney-Captions ("Deep Semantic Understanding of High Resolution Remote Sensing Image", Qu et al., 2016).

    613 images of 500 x 500 (497 / 58 / 58), five captions each, no classes; ``dataset.json`` or ``filenames/`` with
    ``descriptions_SYDNEY.txt``, and ``imgs`` or ``images``.
    """

    AREA = "sydney_captions"
    FILES = ("dataset.json", "filenames")
    FOLDERS = ("imgs", "images")
    SOURCES = ("Sydney-Captions",)

    @classmethod
    def class_of(cls, filename: str) -> str | None:
        """None: the corpus has no classes."""
        return None


@DATASETS.register_module()
class NWPUCaptions(OfficialCaptions):
    """NWPU-Captions ("NWPU-Captions Dataset and MLCA-Net for Remote Sensing Image Captioning", Cheng et al., 2022).

    31,500 images of 256 x 256 in 45 classes, five captions each; ``dataset_nwpu.json`` and ``NWPU_images/<class>/``.
    The images are those of NWPU-RESISC45: after training on them that set is no zero-shot test.
    """

    AREA = "nwpu_captions"
    FILES = ("dataset_nwpu.json",)
    FOLDERS = ("NWPU_images", "images")
    SOURCES = ("NWPU-Captions", "NWPU-RESISC45")
    HOME = "https://github.com/HaiyanHuang98/NWPU-Captions"

    @classmethod
    def class_of(cls, filename: str) -> str | None:
        """The folder."""
        return Path(filename).parent.name or None


@DATASETS.register_module()
class CaptionTexts(CaptionedImages):
    """Captions without their images, for tokenizers and for the ceiling that repeated captions set.

    Args:
        data: ``ucm`` (val, test), ``sydney``, ``rsitmd`` (test) of ``$PERCEPTION_DATA/remote_sensing``, ``rsicd`` of
            ``rsicd_mini`` there, or the path of any caption file.
        split: a split that the file names, or several; None takes all.
        text_form: see ``CaptionFiles``.
        empty: see ``CaptionFiles``.
        root: folder that holds ``captions_text_only`` and ``rsicd_mini``.
        transforms: see ``Dataset``.
        seed: see ``Dataset``.
    """

    FILES: ClassVar[dict[str, str]] = {
        "ucm": "captions_text_only/ucm_captions.json",
        "sydney": "captions_text_only/sydney_captions.json",
        "rsitmd": "captions_text_only/rsitmd.json",
        "rsicd": "rsicd_mini/captions.json",
    }

    def __init__(
        self,
        data: str,
        split: str | Sequence[str] | None = "test",
        text_form: str = "as_is",
        empty: str = "error",
        root: str | None = None,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        require("CaptionTexts", {"text_form": text_form, "empty": empty})
        texts = Texts(self._find(data, root), split, text_form=text_form, empty=empty)
        texts.load(None)
        super().__init__(None, texts.captions, texts.names, texts.classes, texts.labels, (), transforms, seed)
        self.left_out = texts.left_out
        self.split = split or "all"

    @classmethod
    def _find(cls, data: str, root: str | None) -> Path:
        if data in cls.FILES:
            return data_root(root, "remote_sensing", f"It must hold {cls.FILES[data]}.") / cls.FILES[data]
        path = Path(data).expanduser()
        if not path.exists():
            raise DataError(f"data={data!r} is no caption file, nor one of {', '.join(cls.FILES)}")
        return path

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config: missing file, unknown choices."""
        yield from option_faults(cfg)
        try:
            cls._find(cfg["data"], cfg["root"])
        except DataError as error:
            yield "data", str(error)
