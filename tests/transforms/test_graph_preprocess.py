import copy
import pickle

import pytest
import torch
from torch_geometric.data import Data

from perception.errors import CheckpointError, ConfigError, DataError
from perception.registry import PREPROCESSES
from perception.transforms.graph_preprocess import GraphPreprocess


def make(x=None, loops=True):
    x = torch.tensor([[1.0, 3.0], [0.0, 0.0], [-2.0, 2.0]]) if x is None else x
    edges = [[0, 1, 1, 2], [1, 0, 2, 1]]
    if loops:
        edges = [[*edges[0], 0], [*edges[1], 0]]
    return {"graph": Data(x=x, edge_index=torch.tensor(edges), edge_attr=torch.ones(len(edges[0]))), "label": 1}


@pytest.mark.parametrize("sparse", [True, False])
def test_rows_sum_to_one_in_absolute_value_and_zero_rows_stay(sparse):
    batch = make()
    if sparse:
        batch["graph"].x = batch["graph"].x.to_sparse_csr()
    x = GraphPreprocess("row")(batch)["graph"].x
    assert (x.layout == torch.sparse_csr) == sparse
    expected = torch.tensor([[0.25, 0.75], [0.0, 0.0], [-0.5, 0.5]])
    torch.testing.assert_close(x.to_dense() if sparse else x, expected)


def test_every_node_has_exactly_one_self_loop():
    graph = GraphPreprocess()(make())["graph"]
    source, target = graph.edge_index
    assert sorted(source[source == target].tolist()) == [0, 1, 2]
    assert graph.edge_index.shape[1] == 4 + 3
    assert torch.equal(graph.adjacency.edge_index, graph.edge_index)
    untouched = GraphPreprocess(self_loops=False)(make())["graph"]
    assert untouched.edge_index.shape[1] == 5


def test_the_raw_batch_is_not_changed():
    batch = make()
    before = batch["graph"].x.clone(), batch["graph"].edge_index.clone()
    out = GraphPreprocess("row")(batch)
    assert torch.equal(batch["graph"].x, before[0]) and torch.equal(batch["graph"].edge_index, before[1])
    assert "adjacency" not in batch["graph"] and "edge_attr" in batch["graph"]
    assert "edge_attr" not in out["graph"] and out["label"] == 1


def test_zscore_of_the_graph_and_of_recorded_statistics():
    x = torch.tensor([[1.0, 5.0], [3.0, 5.0], [5.0, 5.0]])
    out = GraphPreprocess("zscore")(make(x))["graph"].x
    torch.testing.assert_close(out[:, 0], torch.tensor([-1.0, 0.0, 1.0]) * 1.5**0.5)
    assert (out[:, 1] == 0).all()
    recorded = GraphPreprocess("zscore", mean=(1.0, 0.0), std=(2.0, 5.0))(make(x))["graph"].x
    torch.testing.assert_close(recorded, torch.tensor([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]]))
    with pytest.raises(DataError, match="mean has 1"):
        GraphPreprocess("zscore", mean=(1.0,), std=(2.0,))(make(x))


def test_zscore_of_a_batch_of_graphs_needs_statistics():
    batch = make()
    batch["graph"].batch = torch.tensor([0, 0, 1])
    with pytest.raises(DataError, match="batch to batch"):
        GraphPreprocess("zscore")(batch)


def test_the_same_graph_is_processed_once_and_a_changed_one_again():
    record, batch = GraphPreprocess("row"), make()
    first, again = record(batch)["graph"], record(batch)["graph"]
    assert again.x is first.x and again.adjacency is first.adjacency
    batch["graph"].x[0, 0] = 9.0  # in place: the object is the same
    torch.testing.assert_close(record(batch)["graph"].x[0], torch.tensor([0.75, 0.25]))
    batch["graph"].edge_index[:, 0] = torch.tensor([0, 2])
    assert [0, 2] in record(batch)["graph"].edge_index.t().tolist()
    other = make(torch.ones(3, 2))
    torch.testing.assert_close(record(other)["graph"].x, torch.full((3, 2), 0.5))


def test_a_change_of_sparse_values_is_seen():
    record, batch = GraphPreprocess("none"), make()
    batch["graph"].x = batch["graph"].x.to_sparse_csr()
    record(batch)
    batch["graph"].x.values().mul_(2)
    assert record(batch)["graph"].x.to_dense()[0, 1] == 6.0


def test_record_comparison_copy_and_pickle():
    record = GraphPreprocess("row")
    record(make())
    assert record.record() == {
        "type": "GraphPreprocess", "scaling": "row", "self_loops": True, "mean": None, "std": None
    }  # fmt: skip
    assert PREPROCESSES.build(record.record()) == record == copy.deepcopy(record) == pickle.loads(pickle.dumps(record))
    record.require_same(record.record(), "here")
    with pytest.raises(CheckpointError, match="scaling: 'none' there, 'row' here"):
        record.require_same(GraphPreprocess().record(), "there")


def test_faults_are_named():
    with pytest.raises(ConfigError, match=r"scaling.*row"):
        GraphPreprocess("rows")
    with pytest.raises(ConfigError, match="together"):
        GraphPreprocess("zscore", mean=(1.0,))


def test_edges_out_of_range():
    batch = make()
    batch["graph"].edge_index = torch.tensor([[0, 1], [1, 3]])
    with pytest.raises(DataError, match="3 nodes"):
        GraphPreprocess()(batch)
