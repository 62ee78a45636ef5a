import os

import pytest

from perception.config import load_config
from perception.registry import DATASETS
from perception.transforms.speech_preprocess import SpeechPreprocess


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("speech_varieties", 8000),
        pytest.param(
            "speech_fsdd",
            8000,
            marks=pytest.mark.skipif("PERCEPTION_DATA" not in os.environ, reason="needs $PERCEPTION_DATA/speech"),
        ),
    ],
)
def test_data_of_the_bases_suits_one_record(name, rate):
    cfg = load_config(f"_base_/{name}")
    record = SpeechPreprocess(rate)
    found = {}
    for split in ("train", "test"):
        found[split] = DATASETS.build(cfg.evaluation[split].to_dict())
        assert record(found[split].__getitems__(range(4)))["audio"].shape[0] == 4
    training = DATASETS.build(cfg.train_dataloader.dataset.to_dict())
    batch = training.__getitems__(range(8))
    assert "label" not in batch and batch["sample_rate"] == rate
    assert batch["audio"].shape[1] <= round((training.crop_seconds or training.join_seconds) * rate)
    assert found["train"].classes == found["test"].classes
