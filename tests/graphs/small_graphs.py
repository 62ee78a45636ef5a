"""Small graphs for the graph tests."""

import torch
from torch_geometric.data import Batch, Data

from perception.transforms.graph_preprocess import GraphPreprocess


def random_graph(nodes=20, width=6, edges=40, seed=0, sparse=False):
    """Symmetric random graph, preprocessed: self-loops once, adjacency attached."""
    return preprocessed(raw_graph(nodes, width, edges, seed, sparse))


def raw_graph(nodes=20, width=6, edges=40, seed=0, sparse=False):
    random = torch.Generator().manual_seed(seed)
    ends = torch.randint(nodes, (2, edges), generator=random)
    edge_index = torch.unique(torch.cat([ends, ends.flip(0)], 1), dim=1)
    x = torch.randn(nodes, width, generator=random)
    if sparse:
        x = (x * (torch.rand(nodes, width, generator=random) < 0.3)).to_sparse_csr()
    return Data(x=x, edge_index=edge_index)


def preprocessed(graph):
    return GraphPreprocess()({"graph": graph})["graph"]


def batched(graphs):
    """A torch_geometric Batch of raw graphs."""
    return Batch.from_data_list(graphs)


def dense_adjacency(graph, dtype=torch.float32):
    """A[i, j] = number of edges j -> i."""
    size = graph.x.shape[0]
    out = torch.zeros(size, size, dtype=dtype)
    source, target = graph.edge_index
    out.index_put_((target, source), torch.ones(len(source), dtype=dtype), accumulate=True)
    return out
