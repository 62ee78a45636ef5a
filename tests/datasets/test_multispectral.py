import struct

import numpy as np
import pytest
import tifffile

from perception.datasets.multispectral import band_places, decode_tiff, read_tiff
from perception.errors import DataError

BANDS = (*(f"B{i:02d}" for i in range(1, 13)), "B8A")
VALUES = np.random.default_rng(0).integers(0, 28_000, (13, 8, 6), dtype=np.uint16)


def write(path, values=VALUES, **how):
    """Values (C, H, W) interleaved by pixel, as EuroSAT's files are, unless ``how`` says otherwise."""
    if how.get("planarconfig", "contig") == "contig":
        values = values.transpose(1, 2, 0)
    tifffile.imwrite(path, values, **{"photometric": "minisblack", "planarconfig": "contig", "metadata": None} | how)
    return path


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"planarconfig": "separate"},
        {"compression": "zlib", "predictor": True},
        {"tile": (16, 16)},
        {"byteorder": ">"},
        {"photometric": "rgb", "extrasamples": [0] * 10},
    ],
)
def test_every_arrangement_of_the_bands_gives_the_same_values(tmp_path, how):
    values = read_tiff(write(tmp_path / "a.tif", **how), 13)
    assert values.dtype == np.uint16 and values.dtype.isnative and values.flags.c_contiguous
    assert np.array_equal(values, VALUES)


def test_a_file_without_any_library():
    """A TIFF of one row and two pixels of two bands each, put together by hand from the standard's tables."""
    pixels = struct.pack("<4H", 1, 2, 3, 4)
    tags = [(256, 2), (257, 1), (258, 16), (259, 1), (262, 1), (273, 8), (277, 2), (278, 1), (279, 8), (284, 1)]
    entries = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in tags if tag != 258)
    bits = struct.pack("<HHIHH", 258, 3, 2, 16, 16)
    entries = entries[:24] + bits + entries[24:]
    data = b"II*\0" + struct.pack("<I", 16) + pixels + struct.pack("<H", len(tags)) + entries + bytes(4)
    assert decode_tiff(data, 2, "a.tif").tolist() == [[[1, 3]], [[2, 4]]]


def test_single_bands_and_pages(tmp_path):
    one = tmp_path / "one.tif"
    tifffile.imwrite(one, VALUES[0])
    assert np.array_equal(read_tiff(one, 1), VALUES[:1])
    with tifffile.TiffWriter(tmp_path / "pages.tif") as writer:
        for band in VALUES[:4]:
            writer.write(band, photometric="minisblack", metadata=None)
    assert np.array_equal(read_tiff(tmp_path / "pages.tif", None), VALUES[:4])


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32"])
def test_types_are_kept(tmp_path, dtype):
    values = read_tiff(write(tmp_path / "a.tif", VALUES.astype(dtype)), 13)
    assert values.dtype == dtype and np.array_equal(values, VALUES.astype(dtype))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.2, 0.6, 0.999])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_cut_file_is_named(tmp_path, share, compression):
    path = write(tmp_path / "Forest_1.tif", compression=compression)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(DataError, match=r"Forest_1\.tif' (is cut off|cannot be read as a TIFF file)"):
        read_tiff(path, 13)


def test_damage_within_compressed_values_is_named(tmp_path):
    path = write(tmp_path / "a.tif", compression="zlib")
    data = bytearray(path.read_bytes())
    data[-200:-100] = bytes(100)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.tif' cannot be read as a TIFF file"):
        read_tiff(path, 13)


def test_wrong_contents_are_named_with_what_was_expected(tmp_path):
    path = write(tmp_path / "a.tif", VALUES[:3])
    with pytest.raises(DataError, match=r"a\.tif' has 3 bands, expected 13"):
        read_tiff(path, 13)
    with pytest.raises(DataError, match=r"^tile 7 of x has 3 bands"):
        read_tiff(path, 13, "tile 7 of x")
    write(path, VALUES.astype(np.float64))
    with pytest.raises(DataError, match="values of type float64, expected uint8 or uint16 or int16"):
        read_tiff(path, 13)
    broken = VALUES.astype(np.float32)
    broken[4, 2, 1], broken[12, 0, 0] = np.nan, np.inf
    write(path, broken)
    with pytest.raises(DataError, match="2 values that are not finite, the first in band 4, row 2, column 1"):
        read_tiff(path, 13)
    path.write_bytes(b"\xff\xd8\xff\xe0 a JPEG")
    with pytest.raises(DataError, match="cannot be read as a TIFF file"):
        read_tiff(path, 13)
    with pytest.raises(DataError, match=r"none\.tif' cannot be read: No such file"):
        read_tiff(tmp_path / "none.tif", 13)


def test_bands_are_found_by_name():
    assert band_places(["B04", "b3", "blue"], BANDS, "EuroSAT") == (3, 2, 1)
    assert band_places(["B8A", "nir"], BANDS, "EuroSAT") == (12, 7)
    with pytest.raises(DataError, match=r"EuroSAT has no band 'B8B', only .*did you mean 'B8A'\?"):
        band_places(["B8B"], BANDS, "EuroSAT")
    for wrong in (["B04", "red"], []):
        with pytest.raises(DataError, match="none twice"):
            band_places(wrong, BANDS, "EuroSAT")
