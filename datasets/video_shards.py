"""Videos in tar shards, for corpora beyond a folder of files: read at random places, without unpacking."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from perception.datasets.caption_records import first_names, read_json
from perception.datasets.pair_shards import DESCRIPTION, find_shards
from perception.datasets.shard_index import NO_IMAGE, UNREADABLE, read_index
from perception.datasets.video_backends import Place
from perception.datasets.video_files import VideoFiles
from perception.datasets.video_frames import VideoRecord
from perception.errors import DataError, not_among
from perception.registry import DATASETS


@DATASETS.register_module()
class VideoShards(VideoFiles):
    """Videos in uncompressed tar shards of the webdataset layout (``shard_index``), as ``tools/make_shards.py`` makes.

    Videos are numbered in the order of the sorted shards, and clips are cut as from files: the same list gives the same
    clips, packed or not, and the sampler deals, shuffles and resumes them alike. For every clip the decoding process
    copies the packed file into memory. The first use writes an index beside each shard.

    Args:
        shards: a folder of ``.tar`` files, one such file, a pattern (``videos-*.tar``), or a list of files.
        classes: class names in label order; None takes ``shards.json``'s, else the sorted names that occur.
        index_dir: folder of the index files; None is beside the shards.
        clip: how clips are cut: see ``VideoFiles``.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        classes: Sequence[str] | None = None,
        index_dir: str | None = None,
        **clip: Any,
    ) -> None:
        super().__init__(*read_shards(shards, classes, index_dir), **clip)

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config: no shard, clips that cannot be."""
        yield from cls.clip_faults(cfg)
        try:
            find_shards(cfg["shards"])
        except DataError as error:
            yield "shards", str(error)


def read_shards(
    shards: str | Sequence[str], classes: Sequence[str] | None, index_dir: str | None
) -> tuple[list[VideoRecord], tuple[str, ...]]:
    """Videos and class names of shards; see ``VideoShards``.

    Raises:
        DataError: samples without a video or with a json that cannot be read, a name twice, a label that is no class.
    """
    paths = find_shards(shards)
    folder = None if index_dir is None else Path(index_dir).expanduser()
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[Path, str, str, Place, int, int]] = []
    for path in paths:
        index = read_index(path, folder)
        for fault, reason in ((NO_IMAGE, "have no video"), (UNREADABLE, "have a text that is no json as expected")):
            wrong = index.keys[index.fault == fault].tolist()
            if wrong:
                share = f"{len(wrong)} of {len(index)} samples"
                raise DataError(f"shard {str(path)!r}: {share} {reason}: {first_names(wrong)}")
        places = (Place(path, *place) for place in index.images.tolist())
        columns = zip(index.names.tolist(), index.labels.tolist(), places, index.ranges.tolist(), strict=True)
        rows += [(path, name, label, place, *frames) for name, label, place, frames in columns]
    described = paths[0].parent / DESCRIPTION
    about = read_json(described, ("sources", "classes")) if described.is_file() else {}
    found = Counter(row[2] for row in rows)
    names = tuple(classes or about.get("classes") or sorted(name for name in found if name))
    numbers = {name: number for number, name in enumerate(names)}
    for name in found:
        if name and name not in numbers:
            told = f"{found[name]} videos have the label {name!r}, which is {not_among(name, names)}"
            raise DataError(f"{shards}: {told}")
    records = [
        VideoRecord(path / name, numbers.get(label, -1), first, None if count < 0 else count, place)
        for path, name, label, place, first, count in rows
    ]
    return records, names
