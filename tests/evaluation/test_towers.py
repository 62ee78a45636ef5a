"""Protocols that judge a dual encoder, in one evaluation section with those that judge features."""

import copy
import json

import numpy as np
import pytest
import torch
from toy_towers import NAMES, TEMPLATES, Agree, ColourImages, Colours, ColourTowers

from perception.evaluation.overlap import overlap_note, shared_sources, sources_of
from perception.evaluation.protocol import EvaluationError
from perception.evaluation.results import aggregate_rows, format_value, print_rows
from perception.evaluation.retrieval_protocol import RULES, Gallery, Retrieval
from perception.evaluation.run import evaluate
from perception.evaluation.towers import Scenes, Towers, look, pictures_of
from perception.evaluation.zero_shot_protocol import ZeroShot

TEST = {"type": "Colours", "split": "test"}
SECTION = {
    "train": {"type": "Colours", "split": "train", "size": 40},
    "test": TEST,
    "protocols": {
        "knn": {"type": "KNN", "k": 3},
        "retrieval": {"type": "Retrieval"},
        "zero_shot": {"type": "ZeroShot", "prompts": ["a photo of {}."], "topk": [1, 2, 5]},
    },
}


def untrained(seed: int = 0) -> ColourTowers:
    torch.manual_seed(seed)
    return ColourTowers()


def pick(rows, **wanted):
    found = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    assert len(found) == 1, (wanted, len(found))
    return found[0]


def towers_of(dataset, backbone=None) -> Towers:
    return look(backbone or ColourTowers(learnt=True), dataset)


def test_feature_and_tower_protocols_stand_in_one_section():
    rows = evaluate(ColourTowers(learnt=True), SECTION, 3, untrained())
    json.dumps(rows)
    assert list(dict.fromkeys(row["protocol"] for row in rows)) == ["knn", "retrieval", "zero_shot"]
    sources = {name: {r["source"] for r in rows if r["protocol"] == name} for name in SECTION["protocols"]}
    assert sources["knn"] == {"trained", "untrained", "raw"}
    assert sources["retrieval"] == {"trained", "untrained", "chance", "ceiling"}
    assert sources["zero_shot"] == {"trained", "untrained", "chance"}
    keys = {frozenset(row) for row in rows}
    assert len(keys) == 1 and {"notes", "proportion", "ci95", "weights_hash"} <= next(iter(keys))
    assert all(row["seed"] == 3 for row in rows)
    retrieval = [row for row in rows if row["protocol"] == "retrieval" and row["source"] == "trained"]
    assert [row["metric"] for row in retrieval] == [
        "mean recall", "i2t R@1", "i2t R@5", "i2t R@10", "t2i R@1", "t2i R@5", "t2i R@10",
    ]  # fmt: skip
    assert {row["variant"] for row in retrieval} == {"Colours test"}
    assert {row["n"] for row in retrieval if row["metric"].startswith("t2i")} == {48}
    assert retrieval[0]["n"] == 24 and retrieval[0]["ci95"] is None and retrieval[1]["ci95"] is not None
    zero_shot = [row for row in rows if row["protocol"] == "zero_shot" and row["source"] == "chance"]
    assert [(row["metric"], row["value"]) for row in zero_shot] == [("accuracy", 0.25), ("top-2 accuracy", 0.5)]
    assert pick(rows, protocol="zero_shot", source="trained", metric="accuracy")["value"] == 1.0
    assert pick(rows, protocol="retrieval", source="chance", metric="t2i R@5")["value"] == pytest.approx(5 / 24)
    mean = pick(rows, protocol="retrieval", source="chance", metric="mean recall")
    assert mean["extras"]["closed_form"] == pytest.approx(mean["value"], abs=0.03)


def test_no_features_are_extracted_for_tower_protocols_alone():
    section = {"test": TEST, "protocols": {"retrieval": {"type": "Retrieval"}}}
    assert {row["source"] for row in evaluate(untrained(), section, 0)} == {"trained", "chance", "ceiling"}


def test_captions_that_only_name_the_class_reach_the_ceiling_and_not_more():
    dataset = Colours(noise=0)
    rows = evaluate(ColourTowers(learnt=True), {"test": dataset, "protocols": {"r": Retrieval()}}, 0)
    for metric in ("t2i R@1", "t2i R@5", "mean recall"):
        trained, ceiling = (pick(rows, source=source, metric=metric) for source in ("trained", "ceiling"))
        # Images of one colour are equal, so optimistic reading promises everything; ties at random give the ceiling.
        assert trained["value"] == 1.0
        if metric.startswith("t2i"):
            assert trained["extras"]["expected"] == pytest.approx(ceiling["value"])
    at_1 = pick(rows, source="trained", metric="t2i R@1")
    assert at_1["extras"] == {"pessimistic": 0.0, "expected": pytest.approx(1 / 6)}
    assert format_value(at_1, interval=False) == "100.00 (ties 16.67–0.00)"


def test_tie_bounds_are_shown_only_where_they_matter():
    row = {"metric": "mean recall", "value": 0.0365, "extras": {"pessimistic": 0.0361, "expected": 0.0364}}
    assert format_value(row) == "3.65"
    row["extras"] = {"pessimistic": 0.0359, "expected": 0.0362}
    assert format_value(row) == "3.65 (ties 3.62–3.59)"
    base = {"protocol": "r", "variant": "", "source": "trained", "n": 5, "dims": 3, "sizes": {}, "notes": ["so"], **row}
    merged = aggregate_rows([[{**base, "seed": seed}] for seed in (0, 1)])
    assert format_value(merged[0]) == "3.65 ± 0.00 (ties 3.62–3.59)" and merged[0]["notes"] == ["so"]


def test_rules_write_the_texts():
    text = "Many Planes are parked ."
    written = {name: rules.write(text) for name, rules in RULES.items()}
    assert written == {
        "default": text,
        "georsclip": text,
        "remoteclip": "Many planes are parked .",
        "vt-rsbs": "Many Planes are parked",
        "amfmn": "many planes are parked .",
        "skyscript": "a satellite image. Many Planes are parked .",
    }
    assert RULES["amfmn"].write(written["amfmn"]) == written["amfmn"]
    assert RULES["vt-rsbs"].ks == (1, 5, 10, 50) and RULES["skyscript"].ks == (1, 5, 10, 100)


def scenes(*captions, **more) -> Scenes:
    return Scenes("Made test", [[("en", text) for text in own] for own in captions], torch.zeros(len(captions)), **more)


def test_skyscript_makes_equal_texts_one_entry_with_several_images():
    shown = scenes(["a", "a", "b"], ["a", "c"], ["c"])
    gallery = Gallery.of(shown, "en", RULES["skyscript"])
    assert gallery.texts == [f"a satellite image. {text}" for text in "abc"]
    assert gallery.pairs.tolist() == [[0, 0], [0, 1], [1, 0], [2, 1], [2, 2]]
    plain = Gallery.of(shown, "en", RULES["default"])
    assert plain.texts == ["a", "a", "b", "a", "c", "c"] and plain.pairs[:, 1].tolist() == [0, 0, 0, 1, 1, 2]
    assert plain.own() == [["a", "a", "b"], ["a", "c"], ["c"]]
    protocol = Retrieval("skyscript")
    references = protocol.references(shown)
    assert set(references) == {"chance"}  # no ceiling: equal texts are one
    assert protocol.label(shown) == "Made test, skyscript rules" and Retrieval().label(shown) == "Made test"
    # By hand: 3 texts, 3 images; each text has 2, 1, 2 of the images, each image 2, 2, 1 of the texts.
    values = {outcome.metric: outcome.value for outcome in references["chance"]}
    assert values["t2i R@1"] == pytest.approx((2 + 1 + 2) / 9) and values["i2t R@1"] == pytest.approx((2 + 2 + 1) / 9)
    assert "i2t R@100" in values


def test_images_without_captions_are_counted_not_missed():
    rows = evaluate(ColourTowers(learnt=True), {"test": Colours(silent=5), "protocols": {"r": Retrieval()}}, 0)
    row = pick(rows, source="trained", metric="i2t R@1")
    assert row["n"] == 19 and row["value"] == 1.0
    head = pick(rows, source="trained", metric="mean recall")
    assert head["notes"] == [
        "5 of 24 images of Colours test have no caption in en: no queries, they stay in the gallery"
    ]
    assert pick(rows, source="chance", metric="t2i R@1")["value"] == pytest.approx(1 / 24)


def test_further_figures_of_retrieval():
    protocol = Retrieval(ks=[2], median_rank=True, true_recall=True)
    outcomes = {outcome.metric: outcome for outcome in protocol.run(towers_of(Colours()), 0)}
    assert {"i2t R@2", "t2i R@2", "i2t true R@1", "t2i true R@10"} <= set(outcomes)
    head = outcomes["mean recall"]
    assert head.extras["i2t median rank"] == 1.0 and head.notes[0].startswith("median rank: i2t 1, t2i ")
    # An image's own texts read like those of five others: it finds some of them, hardly all.
    assert outcomes["i2t true R@1"].value < outcomes["i2t R@1"].value
    assert head.value == pytest.approx(
        np.mean([outcomes[f"{d} R@{k}"].value for d in ("i2t", "t2i") for k in (1, 5, 10)])
    )


LANGUAGES = ("en", "de", "xx")


def test_every_language_alone_then_the_mean_and_the_worst():
    dataset = Colours(languages=LANGUAGES)
    outcomes = Retrieval().run(towers_of(dataset), 0)
    alone = {lang: Retrieval(languages=lang).run(towers_of(dataset), 0) for lang in LANGUAGES}
    assert alone["en"][0].value == alone["de"][0].value > alone["xx"][0].value
    rows = {(outcome.variant, outcome.metric): outcome for outcome in outcomes}
    assert [key for key in rows if key[0]] == [(v, "mean recall") for v in (*LANGUAGES, "worst language")]
    for position, outcome in enumerate(outcomes[:7]):
        assert outcome.value == pytest.approx(np.mean([alone[lang][position].value for lang in LANGUAGES]))
    assert outcomes[0].extras["languages"] == {lang: alone[lang][0].value for lang in LANGUAGES}
    assert outcomes[0].extras["spread"] == pytest.approx(alone["en"][0].value - alone["xx"][0].value)
    assert rows["de", "mean recall"].extras["t2i R@5"] == alone["de"][5].value
    worst = rows["worst language", "mean recall"]
    assert worst.value == alone["xx"][0].value and worst.extras["language"] == "xx"
    with pytest.raises(EvaluationError, match="no captions in 'fr'"):
        Retrieval(languages=["fr"]).run(towers_of(dataset), 0)


def test_zero_shot_by_language():
    given = {"class_names": {lang: NAMES[lang] for lang in LANGUAGES}, "prompts": TEMPLATES, "languages": "all"}
    outcomes = ZeroShot(**given).run(towers_of(Colours()), 0)
    values = {outcome.variant: outcome.value for outcome in outcomes}
    # Words that the text tower does not know are all alike: always the first class.
    assert values == {"": pytest.approx(2.25 / 3), "en": 1.0, "de": 1.0, "xx": 0.25, "worst language": 0.25}
    assert any("read the same as another" in note for outcome in outcomes for note in outcome.notes)
    chance = ZeroShot(**given).references(towers_of(Colours()).scenes)["chance"]
    assert {outcome.variant: outcome.value for outcome in chance} == dict.fromkeys(values, 0.25)
    two = ZeroShot(**{**given, "languages": ["de", "en"]}).run(towers_of(Colours()), 0)
    assert [outcome.variant for outcome in two] == ["", "de", "en", "worst language"]
    with pytest.raises(EvaluationError, match="no template in 'fr', only in en, de, xx"):
        ZeroShot(**{**given, "languages": ["fr"]}).run(towers_of(Colours()), 0)
    with pytest.raises(EvaluationError, match="needs class_names; Colours test brings none"):
        ZeroShot(languages=["en"]).run(towers_of(Colours()), 0)
    dataset = Colours()
    dataset.class_names = given["class_names"]
    dataset.class_templates = TEMPLATES
    own = ZeroShot(languages="all").run(towers_of(dataset), 0)
    assert [o.value for o in own] == [o.value for o in outcomes]


def test_zero_shot_takes_the_classes_of_the_data_set():
    backbone = ColourTowers(learnt=True)
    outcome = ZeroShot("clip-rsicd", topk=(1, 3, 5, 10)).run(towers_of(Colours(unlabelled=4), backbone), 0)
    assert backbone.embedded == [
        f"An aerial photograph of {n}" for n in ("dark red", "green field", "sea blue", "grey")
    ]
    assert [o.metric for o in outcome] == ["accuracy", "top-3 accuracy"]  # the others are certain
    assert outcome[0].n == 20 and outcome[0].notes == ("4 of 24 images of Colours test have no class: left out",)
    assert outcome[0].extras["per_class"] == dict.fromkeys(Colours.classes, 1.0)
    assert outcome[0].settings == {"prompts": "clip-rsicd", "templates": 1, "average": "normalised"}
    dataset = Colours()
    dataset.classes = tuple(reversed(dataset.classes))  # the wrong order must show
    assert ZeroShot().run(towers_of(dataset), 0)[0].value == 0.0
    dataset.classes = ("one", "two")
    with pytest.raises(EvaluationError, match="has label 3, but names 2 classes"):
        ZeroShot().run(towers_of(dataset), 0)
    dataset.classes = ()
    with pytest.raises(EvaluationError, match="has no classes"):
        ZeroShot().run(towers_of(dataset), 0)
    with pytest.raises(EvaluationError, match="labelled images"):
        ZeroShot().run(towers_of(Colours(unlabelled=24)), 0)
    named = ZeroShot(class_names=["grey", "grey", "grey", "dark red"]).run(towers_of(Colours()), 0)
    assert named[0].extras["per_class"]["Grey"] == 0.0


def test_averages_are_a_switch():
    settings = {}
    for prompts, average in (("georsclip", None), ("vt-rsbs", None), ("georsclip", "normalised")):
        outcome = ZeroShot(prompts, average).run(towers_of(Colours()), 0)[0]
        settings[prompts, average] = (outcome.settings["average"], outcome.settings["templates"])
        assert outcome.value == 1.0
    assert list(settings.values()) == [("raw", 105), ("softmax", 1), ("normalised", 105)]


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({"prompts": "remoteclp"}, "prompts: not one of .*nearest is 'remoteclip'"),
        ({"prompts": ["no place"]}, "'no place' has no {}"),
        ({"prompts": {"en": "a {}"}}, "need languages"),
        ({"prompts": "remoteclip", "languages": ["en"]}, "templates by language belong here"),
        ({"average": "mean"}, "average: not one of"),
        ({"topk": []}, "at least one k"),
        ({"topk": [0]}, "above 0"),
        ({"languages": []}, "at least one language"),
    ],
)
def test_faults_of_zero_shot(cfg, message):
    with pytest.raises(EvaluationError, match=message):
        ZeroShot(**cfg)


def test_a_backbone_without_a_text_tower_is_named():
    with pytest.raises(EvaluationError, match="ColourImages has no text tower"):
        evaluate(ColourImages(), SECTION, 0)


def test_broken_embeddings_are_named():
    backbone = ColourTowers(learnt=True)
    backbone.embed_text = lambda texts: torch.full((len(texts), 3), float("nan"))
    with pytest.raises(EvaluationError, match=r"text 'a satellite photo of dark red\.' is not finite"):
        ZeroShot().run(towers_of(Colours(), backbone), 0)
    backbone.embed_text = lambda texts: torch.zeros(len(texts), 5)
    with pytest.raises(EvaluationError, match="no common space"):
        ZeroShot().run(towers_of(Colours(), backbone), 0)
    with torch.no_grad():
        backbone.visual.weight.fill_(float("inf"))
    with pytest.raises(EvaluationError, match="embedding of image 0 is not finite"):
        towers_of(Colours(), backbone)


def test_nothing_of_the_towers_or_of_the_random_state_changes():
    backbone = untrained().train()
    before, state = copy.deepcopy(backbone.state_dict()), torch.get_rng_state()
    evaluate(backbone, SECTION, 0)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert torch.equal(state, torch.get_rng_state()) and backbone.training and backbone.drop.training


def test_equal_texts_are_embedded_once():
    backbone = ColourTowers(learnt=True)
    towers = towers_of(Colours(), backbone)
    Retrieval().run(towers, 0)
    assert len(backbone.embedded) == 4
    features, rows = towers.texts(["b", "a", "b"])
    assert rows.tolist() == [0, 1, 0] and len(features) == 2


def test_batches_of_any_size_give_the_same():
    values = []
    for size in (5, 500):
        rows = evaluate(untrained(), {**SECTION, "batch_size": size}, 0)
        values.append([row["value"] for row in rows])
    assert values[0] == values[1]


def test_a_protocol_may_name_its_own_data():
    section = {
        "test": TEST,
        "protocols": {
            "here": {"type": "ZeroShot"},
            "there": {"type": "ZeroShot", "dataset": {"type": "ColoursAlone", "split": "val"}},
        },
    }
    rows = evaluate(ColourTowers(learnt=True), section, 0)
    assert {(r["protocol"], r["variant"], r["n"]) for r in rows} == {
        ("here", "Colours test", 24),
        ("there", "ColoursAlone val", 12),
    }
    section["protocols"]["there"] = {"type": "Retrieval", "dataset": {"type": "ColoursAlone"}}
    with pytest.raises(EvaluationError, match="Retrieval needs captions; ColoursAlone test has none"):
        evaluate(ColourTowers(), section, 0)
    del section["test"]
    with pytest.raises(EvaluationError, match=r"here needs evaluation\.test"):
        evaluate(ColourTowers(), section, 0)


def test_overlap_of_training_and_test_corpora_is_told(capsys):
    rows = evaluate(ColourTowers(learnt=True), SECTION, 0, untrained(), trained_on=("Colours of the World", "Other"))
    notes = {row["source"]: row["notes"] for row in rows if row["protocol"] == "zero_shot"}
    assert notes["untrained"] == notes["chance"] == []
    assert notes["trained"][0].startswith("Colours test: trained on the same corpus (Colours of the World)")
    print_rows(rows, "toy")
    assert capsys.readouterr().out.count("note: Colours test: trained on") == 1
    section = {**SECTION, "trained_on": ["colours-of-the-world"]}  # names of weights that came from elsewhere
    assert any(row["notes"] for row in evaluate(ColourTowers(), section, 0) if row["protocol"] == "retrieval")
    assert shared_sources(["NWPU-Captions"], ["NWPU-RESISC45", "EuroSAT"]) == ["NWPU-RESISC45"]
    assert shared_sources(["UCM-Captions", "UC Merced"], ["UC Merced"]) == ["UC Merced"]
    assert overlap_note(["RSICD"], ["EuroSAT"], "x") == () and sources_of(object()) == ("object",)
    assert sources_of(Colours(sources=())) == ()


def test_table_has_a_column_for_chance_and_ceiling(capsys):
    rows = evaluate(ColourTowers(learnt=True), SECTION, 0, untrained())
    print_rows(rows, "toy")
    out = capsys.readouterr().out
    for word in ("trained", "untrained", "raw", "chance", "ceiling"):
        assert word in out.split("┡")[0]


def test_pictures(tmp_path):
    evaluate(ColourTowers(learnt=True), SECTION, 0, untrained(), pictures=tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["retrieval_sheet.png", "zero_shot_confusion.png"]
    import cv2

    sheet = cv2.imread(str(tmp_path / "retrieval_sheet.png"))
    assert sheet.shape[0] > 300 and sheet.shape[1] > 300
    green = (np.abs(sheet[..., ::-1].astype(int) - (0x1A, 0x98, 0x50)).max(2) < 12).sum()
    assert green > 1000  # frames of the hits


def test_any_image_can_be_shown():
    class Deep:
        def __getitem__(self, index):
            values = torch.tensor([0.0, 5000.0]) if index else torch.tensor([7, 200], dtype=torch.uint8)
            return {"image": values.view(1, 1, 1, 2).expand(1, 13, 2, 2)}

    grey, deep = pictures_of(Deep(), [0, 1])
    assert grey.shape == deep.shape == (2, 2, 3) and grey[0].tolist() == [[7] * 3, [200] * 3]
    assert deep[0].tolist() == [[0] * 3, [255] * 3]


def test_toys_are_what_the_tests_take_them_for():
    assert Agree()(ColourTowers(learnt=True), {})["loss"] == 0
    assert len({text for own in Colours(languages=LANGUAGES).captions for _, text in own}) == 4 + 4 + 1
