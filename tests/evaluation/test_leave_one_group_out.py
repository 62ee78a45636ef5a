"""Groups left out in turn: against scikit-learn, and with groups that a data set tells."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from toy import clouds, features

from perception.evaluation.features import extract
from perception.evaluation.leave_one_group_out import LeaveOneGroupOut
from perception.evaluation.protocol import EvaluationError, Splits, merge


def grouped(count=80, groups=5, seed=0):
    data = clouds(count, spread=2.0)
    members = torch.from_numpy(np.random.default_rng(seed).integers(0, groups, count))
    return replace(data, x=data.x + members[:, None] * 0.7, groups=members)


def reference(x, y, groups, penalties):
    """Hits of scikit-learn's leave-one-group-out, the penalty by the same over the other groups."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def hits(fit, ask, penalty):
        model = LogisticRegression(C=1 / (2 * penalty * fit.sum()), max_iter=5000, tol=1e-8)
        return make_pipeline(StandardScaler(), model).fit(x[fit], y[fit]).predict(x[ask]) == y[ask]

    right, chosen = np.zeros(len(y), dtype=bool), []
    for group in np.unique(groups):
        scores = [
            sum(
                hits((groups != group) & (groups != other), groups == other, penalty).sum()
                for other in np.unique(groups)
                if other != group
            )
            for penalty in penalties
        ]
        chosen.append(penalties[int(np.argmax(scores))])
        right[groups == group] = hits(groups != group, groups == group, chosen[-1])
    return right, chosen


@pytest.mark.parametrize("penalties", [[0.01], [1.0, 0.1, 0.001]])
def test_it_is_scikit_learns_nested_leave_one_group_out(penalties):
    data = grouped()
    outcome = LeaveOneGroupOut(penalties).run(Splits(all=data), 0)[0]
    y, groups = data.y.numpy(), data.groups.numpy()
    right, chosen = reference(data.x.double().numpy(), y, groups, penalties)
    assert outcome.value == pytest.approx(right.mean()) and outcome.n == 80
    assert outcome.extras["groups"] == pytest.approx({str(g): right[groups == g].mean() for g in np.unique(groups)})
    assert outcome.chosen == ({} if len(penalties) == 1 else {"penalty": chosen})
    shuffled = data.take(torch.from_numpy(np.random.default_rng(1).permutation(80)))
    assert LeaveOneGroupOut(penalties).run(Splits(all=shuffled), 1)[0].value == outcome.value


def test_what_is_known_of_one_group_alone_does_not_help():
    """The class of a sample can be read in its own group only: a random split gives 1.0, a group left out nothing."""
    y = np.tile([0, 1], 20)
    groups = np.repeat(np.arange(4), 10)
    x = np.zeros((40, 4))
    x[np.arange(40), groups] = np.where(y == 1, 1.0, -1.0)
    data = replace(features(x, y), groups=torch.from_numpy(groups))
    assert LeaveOneGroupOut(0.01).run(Splits(all=data), 0)[0].value == 0.5


def test_missing_groups_are_told():
    with pytest.raises(EvaluationError, match="does not have"):
        LeaveOneGroupOut().run(Splits(all=clouds(30)), 0)
    with pytest.raises(EvaluationError, match=r"at least 3 groups with 7 penalties, evaluation\.all has 2"):
        LeaveOneGroupOut().run(Splits(all=grouped(30, 2)), 0)
    with pytest.raises(EvaluationError, match="at least 2 groups"):
        LeaveOneGroupOut(0.1).run(Splits(all=grouped(30, 1)), 0)
    assert merge(grouped(), grouped()).groups is None


class Clips(torch.utils.data.Dataset):
    """Three videos of two clips each, of two people, the second video without a label."""

    groups = np.array([7, 7, 3])

    def __len__(self):
        return 6

    def __getitems__(self, indices):
        index = torch.tensor(indices)
        return {"image": index.float()[:, None], "label": torch.tensor([0, 0, -1, -1, 1, 1])[index], "index": index}


def test_clips_have_the_group_of_their_video():
    class Backbone(torch.nn.Module):
        embed_dims = 1

        def feature_choices(self):
            return ("x",)

        def embed(self, batch, feature=None):
            return batch["image"]

    found = extract(Backbone(), Clips(), batch_size=4)["backbone"]
    assert found.groups.tolist() == [7, 7, 3, 3] and found.index.tolist() == [0, 1, 4, 5]
