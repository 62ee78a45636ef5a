import json

import pytest
import resize_benchmark


def test_one_command_gives_a_table_a_page_and_a_picture(tmp_path, capsys):
    words = ["--data", "Digits", "--encoders", "statistics", "rcf", "--sizes", "native", "16", "--seeds", "0", "1"]
    words += ["--normalisations", "divide", "minmax", "--protocols", "knn", "knn_scaled", "--out", str(tmp_path)]
    assert resize_benchmark.main(words) == 0
    shown = capsys.readouterr().out
    assert "rcf, 16 px, minmax, seed 1: knn " in shown and "kNN-5 scaled" in shown
    content = json.loads((tmp_path / "resize_benchmark.json").read_text())
    assert content["data"] == "Digits" and content["statistics"]["bands"] == ["grey"]
    assert len(content["rows"]) == 2 * 2 * (1 + 2) * 2 and content["settings"]["seeds"] == [0, 1]
    best = max(content["rows"], key=lambda row: row["value"])
    assert best["encoder"] == "rcf" and best["value"] > 0.5
    lines = (tmp_path / "resize_benchmark.md").read_text().splitlines()
    assert lines[0].startswith("Digits: accuracy in %, 1,078 training, 450 test images") and len(lines) == 4 + 8
    assert (tmp_path / "resize_benchmark.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--encoders", "statistcs"], "Did you mean 'statistics'?"),
        (["--bands", "B99"], "no band 'B99', only grey"),
        (["--sizes", "-3"], "not a number of pixels"),
        (["--splits", "train", "tset"], "'test'"),
        (["--normalisations", "for_seco"], "for_seco is for reflectance"),
    ],
)
def test_faults_are_messages(changes, message, tmp_path, capsys):
    words = ["--data", "Digits", "--encoders", "statistics", "--sizes", "native", "--out", str(tmp_path / "x")]
    changes = [f"--sizes={changes[1]}"] if changes[0] == "--sizes" else changes
    assert resize_benchmark.main([*words, *changes]) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error and not (tmp_path / "x").exists()
