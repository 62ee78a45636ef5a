import os
from pathlib import Path

import numpy as np
import pytest
import torch

from perception.errors import ConfigError, DataError
from perception.graphs.readers.amazon_actor import Actor, Amazon
from perception.graphs.readers.base import sparse_if_worth
from perception.graphs.readers.digits_graph import DigitsGraph
from perception.graphs.readers.graph_file import GraphFile
from perception.graphs.readers.large_graphs import Reddit
from perception.graphs.readers.planetoid import Planetoid
from perception.graphs.readers.tu_dataset import TUDataset
from perception.registry import DATASETS

DATA = Path(os.environ.get("PERCEPTION_DATA", "")) / "graph"
needs_data = pytest.mark.skipif(
    "PERCEPTION_DATA" not in os.environ or not DATA.is_dir(), reason="PERCEPTION_DATA/graph is not there"
)


def write_planetoid(folder, **changes):
    """Four nodes, five words; node 3 has no words and no label."""
    arrays = {
        "edge_index": np.array([[0, 1, 1, 2], [1, 0, 2, 1]], dtype=np.int32),
        "x_indptr": np.array([0, 2, 3, 4, 4], dtype=np.int32),
        "x_indices": np.array([0, 4, 1, 2], dtype=np.uint16),
        "x_shape": np.array([4, 5], dtype=np.int32),
        "y": np.array([0, 6, 2, -1], dtype=np.int8),
        "train_mask": np.array([1, 0, 0, 0], dtype=bool),
        "val_mask": np.array([0, 1, 0, 0], dtype=bool),
        "test_mask": np.array([0, 0, 1, 0], dtype=bool),
    } | changes
    np.savez(folder / "planetoid_cora.npz", **arrays)
    return str(folder)


def write_tu(folder, name="TOY", **changes):
    """Three graphs: a triangle (0-2), a pair (3-4), a single node (5)."""
    arrays = {
        "node_ptr": np.array([0, 3, 5, 6], dtype=np.int32),
        "edge_ptr": np.array([0, 6, 8, 8], dtype=np.int32),
        "edge_index": np.array([[0, 1, 1, 2, 2, 0, 3, 4], [1, 0, 2, 1, 0, 2, 4, 3]], dtype=np.int32),
        "node_tag": np.array([0, 1, 0, 2, 0, 1], dtype=np.int16),
        "y": np.array([0, 1, 1], dtype=np.int8),
    } | changes
    np.savez(folder / f"tu_{name}.npz", **arrays)
    return str(folder)


def test_planetoid_gives_one_unchanging_graph(tmp_path):
    data = Planetoid("cora", "val", write_planetoid(tmp_path), download=False)
    assert len(data) == 1 and data.full_batch and len(data.classes) == 7
    batch, again = data[0], data[0]
    assert batch["graph"] is again["graph"]
    dense = [[1, 0, 0, 0, 1], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]]
    assert batch["graph"].x.layout == torch.sparse_csr and batch["graph"].x.to_dense().tolist() == dense
    assert batch["label"].tolist() == [0, 6, 2, -1] and batch["mask"].tolist() == [False, True, False, False]
    assert batch["graph"].edge_index.dtype == torch.int64
    assert Planetoid("cora", "all", str(tmp_path)).mask.all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"edge_index": np.array([[0, 1], [1, 4]])}, r"column 1 of edge_index is \[1, 4\].*4 nodes"),
        ({"x_indices": np.array([0, 4, 7, 2])}, "row 1 of x names column 7"),
        ({"x_indptr": np.array([0, 2, 3, 4])}, "x_indptr"),
        ({"y": np.array([0, 7, 2, -1])}, r"y\[1\] is 7.*7 classes"),
        ({"val_mask": np.array([1, 0, 0, 0])}, "val_mask must be bool"),
        ({"y": np.array([0, "a", None, 1], dtype=object)}, "pickle"),
    ],
)
def test_bad_planetoid_files_are_refused_by_name(tmp_path, changes, message):
    root = write_planetoid(tmp_path, **changes)
    with pytest.raises(DataError, match=message) as caught:
        Planetoid("cora", "val", root)
    assert "planetoid_cora.npz" in str(caught.value)


def test_missing_and_unknown_planetoid(tmp_path):
    with pytest.raises(DataError, match=r"planetoid_cora\.npz.*download=True"):
        Planetoid("cora", root=str(tmp_path), download=False)
    with pytest.raises(ConfigError, match="pubmed"):
        Planetoid("pubmet")
    assert dict(Planetoid.check_config({"name": "cora", "root": str(tmp_path), "download": False}))["root"]
    assert dict(Planetoid.check_config({"name": "core"}))["name"]
    both = dict(Planetoid.check_config({"name": "core", "split": "trian"}))
    assert "nearest is 'cora'" in both["name"] and "nearest is 'train'" in both["split"]
    write_planetoid(tmp_path)
    assert not Planetoid.check_config({"name": "cora", "root": str(tmp_path), "download": False})


def test_tu_batches_are_slices_with_local_ids(tmp_path):
    data = TUDataset("TOY", root=write_tu(tmp_path), download=False)
    batch = data.__getitems__([2, 0, 1])
    graph = batch["graph"]
    assert graph.ptr.tolist() == [0, 1, 4, 6] and graph.batch.tolist() == [0, 1, 1, 1, 2, 2]
    expected = [[1, 2, 2, 3, 3, 1, 4, 5], [2, 1, 3, 2, 1, 3, 5, 4]]
    assert graph.edge_index.tolist() == expected
    assert graph.x.argmax(1).tolist() == [1, 0, 1, 0, 2, 0] and graph.x.shape == (6, 3)
    assert batch["label"].tolist() == [1, 0, 1] and batch["index"].tolist() == [2, 0, 1]
    assert graph.num_graphs == 3 and len(data) == 3


def test_tu_features_are_attributes_then_tags_then_degrees_never_labels(tmp_path):
    plain = np.zeros(6, dtype=np.int16)
    degrees = TUDataset("TOY", root=write_tu(tmp_path, node_tag=plain))
    assert degrees.__getitems__([0, 1, 2])["graph"].x.argmax(1).tolist() == [2, 2, 2, 1, 1, 0]
    assert degrees.num_features == 3
    capped = TUDataset("TOY", root=str(tmp_path), max_degree=1)
    assert capped.__getitems__([0, 1, 2])["graph"].x.argmax(1).tolist() == [1, 1, 1, 1, 1, 0]
    other = TUDataset("TOY", root=write_tu(tmp_path, node_tag=plain, y=np.array([1, 0, 0], dtype=np.int8)))
    assert torch.equal(other[0]["graph"].x, degrees[0]["graph"].x)
    x = np.arange(12, dtype=np.float64).reshape(6, 2)
    attributes = TUDataset("TOY", root=write_tu(tmp_path, x=x))
    assert attributes[1]["graph"].x.tolist() == [[6.0, 7.0], [8.0, 9.0]]
    x[4, 1] = np.nan
    with pytest.raises(DataError, match=r"x\[4, 1\] is nan"):
        TUDataset("TOY", root=write_tu(tmp_path, x=x))


def write_collection(folder, tags=False, attributes=False):
    """The graphs of ``write_tu`` as the text files of the collection, where torch_geometric keeps its downloads."""
    raw = folder / "TOY" / "raw"
    raw.mkdir(parents=True)
    files = {
        "A": "1, 2\n2, 1\n2, 3\n3, 2\n3, 1\n1, 3\n4, 5\n5, 4",
        "graph_indicator": "1\n1\n1\n2\n2\n3",
        "graph_labels": "-1\n1\n1",
    }
    if tags:
        files["node_labels"] = "1\n2\n1\n3\n1\n2"
    if attributes:
        files["node_attributes"] = "0.5\n1.5\n2.5\n3.5\n4.5\n5.5"
    for name, text in files.items():
        (raw / f"TOY_{name}.txt").write_text(text + "\n")
    return str(folder)


@pytest.mark.parametrize(("tags", "attributes"), [(False, False), (True, False), (True, True)])
def test_a_download_gives_what_the_file_gives(tmp_path, tags, attributes):
    root = write_collection(tmp_path / "downloads", tags, attributes)
    (tmp_path / "files").mkdir()
    changes = {} if tags else {"node_tag": np.zeros(6, dtype=np.int16)}
    expected = TUDataset("TOY", root=write_tu(tmp_path / "files", **changes)).__getitems__([2, 0, 1])
    batch = TUDataset("TOY", root=root, features="tags" if tags else "auto").__getitems__([2, 0, 1])
    for key in ("x", "edge_index", "batch", "ptr"):
        one, two = batch["graph"][key], expected["graph"][key]
        if key == "edge_index":  # sorted differently
            one, two = (torch.unique(edges, dim=1) for edges in (one, two))
        assert torch.equal(one, two), key
    assert torch.equal(batch["label"], expected["label"])
    if attributes:
        assert TUDataset("TOY", root=root)[1]["graph"].x.tolist() == [[3.5], [4.5]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"edge_index": np.array([[0, 1, 1, 2, 2, 0, 3, 6], [1, 0, 2, 1, 0, 2, 4, 3]])}, "column 7"),
        ({"edge_index": np.array([[0, 1, 1, 2, 2, 0, 3, 0], [1, 0, 2, 1, 0, 2, 4, 3]])}, "column 7.*leaves its graph"),
        ({"node_ptr": np.array([0, 3, 2, 6])}, "node_ptr"),
        ({"edge_ptr": np.array([0, 6, 8, 9])}, "edge_ptr"),
        ({"y": np.array([0, 1])}, r"y must be integers of shape \(3,\)"),
    ],
)
def test_bad_tu_files_are_refused_by_name(tmp_path, changes, message):
    with pytest.raises(DataError, match=message) as caught:
        TUDataset("TOY", root=write_tu(tmp_path, **changes))
    assert "tu_TOY.npz" in str(caught.value)


def test_tu_config_faults():
    assert dict(TUDataset.check_config({"name": "MUTAG", "split": "train"}))["split"]
    assert dict(TUDataset.check_config({"name": "MUTAG", "features": "labels"}))["features"]
    with pytest.raises(ConfigError, match="fold"):
        TUDataset("MUTAG", fold=10)


def test_folds_divide_the_set(tmp_path):
    count = 40
    pointers = np.arange(count + 1, dtype=np.int32)
    label = (np.arange(count) % 2).astype(np.int8)
    root = write_tu(
        tmp_path,
        node_ptr=pointers,
        edge_ptr=np.zeros(count + 1, dtype=np.int32),
        edge_index=np.zeros((2, 0), dtype=np.int32),
        node_tag=np.zeros(count, dtype=np.int16),
        y=label,
    )
    parts = [TUDataset("TOY", split, fold=3, root=root) for split in ("train", "val", "test")]
    assert [len(p) for p in parts] == [32, 4, 4]
    assert sorted(np.concatenate([p.graphs for p in parts]).tolist()) == list(range(count))
    assert parts[2].label[parts[2].graphs].sum() == 2  # stratified


@pytest.fixture
def reddit(monkeypatch):
    """Five posts, the first three for training, where the download would be."""
    from torch_geometric.data import Data

    edges = torch.tensor([[0, 1, 1, 3, 3, 4], [1, 0, 3, 1, 4, 3]])
    x = torch.tensor([[1.0, 7.0], [3.0, 7.0], [5.0, 7.0], [7.0, 7.0], [9.0, 7.0]])
    part = torch.tensor([0, 0, 0, 1, 2])
    masks = {f"{name}_mask": part == code for code, name in enumerate(("train", "val", "test"))}
    data = Data(x=x, edge_index=edges, y=torch.tensor([0, 40, 2, 3, 4]), **masks)
    monkeypatch.setattr("torch_geometric.datasets.Reddit", lambda folder: [data])


def test_reddit_is_standardised_with_all_nodes_and_cut_to_the_training_ones(reddit):
    whole, cut = Reddit("test")[0], Reddit("train", induced=True)[0]
    scaled = torch.tensor([[-4.0, 0.0], [-2.0, 0.0], [0.0, 0.0], [2.0, 0.0], [4.0, 0.0]]) / 8**0.5
    torch.testing.assert_close(whole["graph"].x, scaled)
    torch.testing.assert_close(cut["graph"].x, scaled[:3])
    assert whole["mask"].tolist() == [False] * 4 + [True] and cut["mask"].all()
    assert cut["graph"].edge_index.tolist() == [[0, 1], [1, 0]] and cut["label"].tolist() == [0, 40, 2]


def test_digits_need_no_file_and_no_label_makes_an_edge():
    splits = {name: DigitsGraph(name) for name in ("train", "val", "test")}
    masks = torch.stack([d.mask for d in splits.values()])
    assert (masks.sum(0) == 1).all() and masks.sum(1).tolist() == [20, 300, 1477]
    graph = splits["train"][0]["graph"]
    assert set(graph.x.unique().tolist()) == {0.0, 1.0}
    pairs = set(map(tuple, graph.edge_index.t().tolist()))
    assert all((b, a) in pairs for a, b in pairs) and all(a != b for a, b in pairs)
    from sklearn.datasets import load_digits

    pixels = load_digits().data
    distance = ((pixels - pixels[7]) ** 2).sum(1)
    distance[7] = np.inf
    assert {(7, int(j)) for j in np.argsort(distance)[:5]} <= pairs
    assert DigitsGraph("train", labels_per_class=5).mask.sum() == 50
    assert not torch.equal(DigitsGraph("train", split_seed=1).mask, splits["train"].mask)
    assert DigitsGraph("all", binary=False)[0]["graph"].x.max() == 1.0
    with pytest.raises(ConfigError, match="num_neighbors"):
        DigitsGraph(num_neighbors=0)


def write_own(path, **changes):
    arrays = {
        "x": np.eye(4, dtype=np.float32),
        "edge_index": np.array([[0, 1, 2], [1, 2, 3]]),
        "y": np.array([0, 1, 1, -5]),
        "train_mask": np.array([True, True, False, False]),
    } | changes
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    return str(path)


def test_a_file_of_ones_own(tmp_path):
    path = write_own(tmp_path / "own.npz")
    data = GraphFile(path, "train", undirected=True)
    batch = data[0]
    assert batch["label"].tolist() == [0, 1, 1, -1] and batch["mask"].sum() == 2 and data.classes == ("0", "1")
    assert batch["graph"].edge_index.tolist() == [[0, 1, 1, 2, 2, 3], [1, 0, 2, 1, 3, 2]]
    bare = GraphFile(write_own(tmp_path / "bare.npz", y=None, train_mask=None))
    assert bare[0]["label"].tolist() == [-1] * 4 and bare[0]["mask"].all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": np.array([[1.0], [np.nan], [0.0], [1.0]])}, r"x\[1, 0\] is nan"),
        ({"x": np.array([[1.0], [2.0], [-np.inf], [1.0]])}, r"x\[2, 0\] is -inf"),
        ({"x": np.zeros(4)}, r"shape \(N, D\)"),
        ({"edge_index": np.array([[0, 9], [1, 2]])}, r"column 1 of edge_index is \[9, 2\]"),
        ({"edge_index": np.array([[0.0], [1.0]])}, "edge_index must be integers"),
        ({"y": np.array([0, 1, 4, 0])}, r"y\[2\] is 4, but there are 3 classes"),
        ({"y": np.array([0, 1])}, "y must be"),
        ({"x": np.array([[object()]] * 4)}, "pickle"),
        ({"edge_index": None}, "lacks"),
        ({"train_mask": None}, "has no 'train_mask'"),
    ],
)
def test_bad_files_of_ones_own_are_refused_by_name(tmp_path, changes, message):
    path = write_own(tmp_path / "own.npz", **changes)
    with pytest.raises(DataError, match=message) as caught:
        GraphFile(path, "train", num_classes=3)
    assert "own.npz" in str(caught.value)


def test_a_missing_or_damaged_file_of_ones_own(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        GraphFile(str(tmp_path / "no.npz"))
    assert dict(GraphFile.check_config({"path": str(tmp_path / "no.npz")}))["path"]
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(Path(write_own(tmp_path / "own.npz")).read_bytes()[:200])
    with pytest.raises(DataError, match=r"damaged\.npz.*not a readable"):
        GraphFile(str(damaged))


def test_sparse_only_where_it_pays():
    assert sparse_if_worth(torch.eye(20)).layout == torch.sparse_csr
    assert sparse_if_worth(torch.ones(3, 3)).layout == torch.strided


def test_the_readers_are_registered():
    assert {
        "Planetoid",
        "Amazon",
        "Actor",
        "TUDataset",
        "DigitsGraph",
        "GraphFile",
        "OGBNodes",
        "Reddit",
        "PPI",
    } <= set(DATASETS.names())


@needs_data
@pytest.mark.parametrize(
    ("build", "nodes", "edges", "width", "train"),
    [
        (lambda: Planetoid("cora"), 2708, 10556, 1433, 140),
        (lambda: Planetoid("citeseer"), 3327, 9104, 3703, 120),
        (lambda: Amazon(), 7650, 238162, 745, 765),
        (lambda: Actor(split_index=3), 7600, 53318, 932, 3648),
    ],
)
def test_node_sets(build, nodes, edges, width, train):
    batch = build()[0]
    assert batch["graph"].x.shape == (nodes, width) and batch["graph"].edge_index.shape == (2, edges)
    assert batch["mask"].sum() == train and (batch["label"][batch["mask"]] >= 0).all()


@needs_data
@pytest.mark.parametrize(
    ("name", "graphs", "width"),
    [
        ("MUTAG", 188, 7),
        ("PROTEINS", 1113, 3),
        ("IMDB-BINARY", 1000, 136),
        ("IMDB-MULTI", 1500, 89),
        ("NCI1", 4110, 37),
    ],
)
def test_graph_sets(name, graphs, width):
    data = TUDataset(name)
    batch = data.__getitems__(list(range(10)))
    assert len(data) == graphs and batch["graph"].x.shape[1] == width and len(batch["label"]) == 10
