import json
import os

import pytest

from perception.datasets.caption_corpora import UCM_CLASSES, CaptionTexts, UCMCaptions
from perception.errors import DataError

needs_data = pytest.mark.skipif("PERCEPTION_DATA" not in os.environ, reason="needs $PERCEPTION_DATA/remote_sensing")


@needs_data
@pytest.mark.parametrize(
    ("data", "images", "texts", "distinct", "at_1", "at_5"),
    [  # the table of the retrieval card
        ("rsicd", 1093, 5465, 3331, 92.6, 99.2),
        ("rsitmd", 452, 2260, 2099, 99.8, 100),
        ("ucm", 210, 1050, 378, 38.0, 84.6),
        ("sydney", 58, 290, 136, 50.7, 93.8),
    ],
)
def test_the_ceilings_of_the_card_come_out_of_the_captions(data, images, texts, distinct, at_1, at_5):
    captions = CaptionTexts(data, "test").captions
    owners = {}
    for image, pairs in enumerate(captions):
        for _, text in pairs:
            owners.setdefault(text, set()).add(image)
    assert len(captions) == images and sum(map(len, captions)) == texts and len(owners) == distinct
    # A perfect model ties the images that share a text; a tie at random has its image among the first k by k / ties.
    for k, expected in ((1, at_1), (5, at_5)):
        hits = [min(1, k / len(owners[text])) for pairs in captions for _, text in pairs]
        assert round(100 * sum(hits) / texts, 1) == expected


@needs_data
def test_labels_and_splits_of_the_texts():
    rsitmd = CaptionTexts("rsitmd")
    assert len(rsitmd.classes) == 32 and rsitmd.classes[rsitmd.labels[0]] == "airport"
    assert set(rsitmd.fetch(rsitmd.labels[:2])) == {"captions", "index", "label"}
    assert len(CaptionTexts("sydney", None)) == 613 and len(CaptionTexts("ucm", ("val", "test"))) == 420
    with pytest.raises(DataError, match=r"no split 'train', only {'val': 210, 'test': 210}"):
        CaptionTexts("ucm", "train")


@needs_data
def test_the_numbers_of_ucm_files_are_its_classes():
    data = CaptionTexts("ucm", None)
    words = {"airplane": "airplane", "baseballdiamond": "baseball", "harbor": "boat", "chaparral": "plants"}
    for name, pairs in zip(data.names, data.captions, strict=True):
        word = words.get(UCMCaptions.class_of(name))
        if word:
            assert any(word in text.lower() for _, text in pairs)
    assert {UCMCaptions.class_of(name) for name in data.names} == set(UCM_CLASSES)


def test_any_caption_file_will_do(tmp_path):
    path = tmp_path / "texts.json"
    path.write_text(
        json.dumps([dict(filename="a.jpg", split="test", captions=["One ."]), dict(filename="b.jpg", captions=[])])
    )
    assert CaptionTexts(str(path), text_form="no_stop").captions == [[("en", "One")]]
    with pytest.raises(DataError, match=r"1 images have no caption: b.jpg"):
        CaptionTexts(str(path), None)
    with pytest.raises(DataError, match=r"no caption file, nor one of ucm, sydney, rsitmd, rsicd"):
        CaptionTexts("umc")
