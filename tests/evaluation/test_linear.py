import numpy as np
import pytest
import torch
from toy import clouds, features

from perception.evaluation.lars import LARS
from perception.evaluation.linear_adam import LinearAdam
from perception.evaluation.linear_lbfgs import LinearLBFGS, LogisticRegression, Standardise
from perception.evaluation.linear_sgd import RECIPES, LinearSGD, build_head, scale_at, train_head
from perception.evaluation.protocol import EvaluationError, Features, Splits


def separable(n: int, seed: int = 0) -> Features:
    return clouds(n, spread=0.05, seed=seed)


@pytest.mark.parametrize("penalty", [1e-4, 1e-2, 1.0])
@pytest.mark.parametrize("shape", [(120, 6), (15, 40)])
def test_same_solution_as_scikit_learn(penalty, shape):
    from sklearn.linear_model import LogisticRegression as Reference

    n, dims = shape
    train, test = clouds(n, dims=dims, seed=1), clouds(50, dims=dims, seed=2)
    ours = LogisticRegression(train.x, train.y, 3, max_iter=2000, tolerance=1e-9, double=True).fit(penalty)
    standardise = Standardise.of(train.x)
    # Their objective: sum of losses + ||W||^2 / (2 C).
    theirs = Reference(C=1 / (2 * penalty * n), solver="newton-cg", tol=1e-10, max_iter=20000)
    theirs.fit(standardise(train.x.double()).numpy(), train.y.numpy())
    expected = theirs.predict_proba(standardise(test.x.double()).numpy())
    # With next to no penalty the objective is flat: at a gradient of 4e-8 probabilities still move by 6e-5.
    atol = 2e-4 if penalty < 1e-3 else 2e-5
    np.testing.assert_allclose(ours.logits(test.x).softmax(1).numpy(), expected, atol=atol)


@pytest.mark.parametrize("standardise", [False, True])
def test_the_linear_probe_of_vision_language_models(standardise):
    from sklearn.linear_model import LogisticRegression as Reference

    train, val, test = (clouds(n, dims=12, spread=2.0, seed=n) for n in (150, 90, 400))
    settings = {"C": 0.316, "max_iter": 1000, "tolerance": 1e-9, "double": True, "standardise": standardise}
    found = LinearLBFGS(**settings).run(Splits(train, None, test), 0)[0]
    prepare = Standardise.of(train.x) if standardise else torch.Tensor.double
    theirs = Reference(C=0.316, max_iter=5000, tol=1e-10).fit(prepare(train.x).numpy(), train.y.numpy())
    assert found.value == pytest.approx(theirs.score(prepare(test.x).numpy(), test.y.numpy()))
    assert found.settings == {"C": 0.316, "standardise": standardise}
    # Of several the best on validation data; refitted on both splits, it is C that stays, not the penalty.
    best = LinearLBFGS(**{**settings, "C": [1e-4, 0.316, 10.0]}, patience=9, refit=True).run(
        Splits(train, val, test), 0
    )[0]
    whole = Reference(C=best.chosen["C"], max_iter=5000, tol=1e-10)
    x, y = torch.cat([train.x, val.x]), torch.cat([train.y, val.y])
    prepare = Standardise.of(x) if standardise else torch.Tensor.double
    whole.fit(prepare(x).numpy(), y.numpy())
    assert best.value == pytest.approx(whole.score(prepare(test.x).numpy(), test.y.numpy()))
    assert dict(LinearLBFGS.check_config({"C": 0.0}))


def test_gradient_is_zero_at_the_solution():
    train = clouds(90, seed=3)
    model = LogisticRegression(train.x, train.y, 3, max_iter=2000, tolerance=1e-9, double=True).fit(0.01)
    x = Standardise.of(train.x)(train.x.double())
    weight = model.weight.clone().requires_grad_()
    bias = model.bias.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(x @ weight.T + bias, train.y) + 0.01 * weight.square().sum()
    loss.backward()
    assert weight.grad.abs().max() < 1e-6 and bias.grad.abs().max() < 1e-6


def test_standardise_ignores_constant_columns():
    x = torch.tensor([[1.0, 5.0, 0.1], [3.0, 5.0, 0.1], [5.0, 5.0, 0.1]])
    z = Standardise.of(x)(x)
    root = (8 / 3) ** 0.5  # deviation of 1, 3, 5 divided by n
    torch.testing.assert_close(z[:, 0], torch.tensor([-2.0, 0.0, 2.0]) / root)
    assert (z[:, 1:] == 0).all()
    assert (Standardise.of(x)(torch.tensor([[3.0, 9.0, 9.0]])) == 0).all()


def test_same_figure_for_any_order_of_rows_and_batch_size():
    train, val, test = clouds(200, spread=2.0, seed=1), clouds(90, spread=2.0, seed=2), clouds(300, spread=2.0, seed=3)
    first = LinearLBFGS().run(Splits(train, val, test), 0)[0]
    order = torch.from_numpy(np.random.default_rng(0).permutation(200))
    second = LinearLBFGS().run(Splits(train.take(order), val, test), 1)[0]
    assert first == second  # to the last bit: value, negative log-likelihood, penalty
    assert 0.3 < first.value < 1.0
    assert first.value == LinearLBFGS(chunk=17).run(Splits(train, val, test), 0)[0].value


@pytest.mark.parametrize(
    "protocol",
    [LinearLBFGS(), LinearLBFGS(1e-3), LinearLBFGS(refit=True), LinearAdam(0.05, 0.0, 300)]
    + [LinearSGD(name, epochs=100, batch=32) for name in RECIPES if name not in ("mae", "simclr")],
    ids=lambda p: f"{type(p).__name__}-{getattr(p, 'name', '')}",
)
def test_separable_features_are_classified_perfectly(protocol):
    data = Splits(separable(150, 1), separable(60, 2), separable(90, 3))
    assert protocol.run(data, 0)[0].value == 1.0


@pytest.mark.parametrize(("name", "lr"), [("mae", 20.0), ("simclr", 0.1)])
def test_large_batch_recipes_learn(name, lr):
    # The rates are per 256 samples and made for steps of thousands; LARS hardly moves at 150.
    data = Splits(separable(150, 1), None, separable(90, 3))
    assert LinearSGD(name, lr=lr, batch=50).run(data, 0)[0].value > 0.95


def test_penalty_is_chosen_on_validation_data_and_refit_uses_it():
    train, val, test = clouds(40, dims=30, seed=1), clouds(200, dims=30, seed=2), clouds(200, dims=30, seed=3)
    outcome = LinearLBFGS().run(Splits(train, val, test), 0)[0]
    alone = {p: LinearLBFGS(p).run(Splits(train, None, val), 0)[0].value for p in (1e-3, 1e-2, 1e-1, 1.0, 10.0)}
    assert outcome.chosen["val_accuracy"] == max(alone.values()) == alone[outcome.chosen["penalty"]]
    refit = LinearLBFGS(refit=True).run(Splits(train, val, test), 0)[0]
    assert refit.chosen == outcome.chosen
    assert refit.value > outcome.value  # six times as many rows
    with pytest.raises(EvaluationError, match=r"evaluation\.val"):
        LinearLBFGS().run(Splits(train=train, test=test), 0)


def test_linear_adam_is_the_plain_loop():
    train, val, test = clouds(30, seed=1), clouds(40, seed=2), clouds(50, seed=3)
    outcome = LinearAdam(0.01, 1e-2, 25).run(Splits(train, val, test), 7)[0]
    head = build_head(RECIPES["small"], 5, 3, torch.Generator().manual_seed(7))
    optimiser = torch.optim.Adam(head.parameters(), 0.01, weight_decay=1e-2)
    history = []
    for _ in range(25):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(head(train.x), train.y).backward()
        optimiser.step()
        with torch.no_grad():
            history.append([float((head(s.x).argmax(1) == s.y).double().mean()) for s in (val, test)])
    assert outcome.value == history[-1][1]
    best = max(v for v, _ in history)
    last = max(i for i, (v, _) in enumerate(history) if v == best)
    assert outcome.extras["early_stopping"] == history[last][1]
    assert outcome.chosen == {"early_stopping_epoch": last + 1, "val_accuracy": best}
    assert outcome.value == LinearAdam(0.01, 1e-2, 25).run(Splits(train, None, test), 7)[0].value


def test_heads_start_as_their_recipe_says():
    generator = torch.Generator().manual_seed(0)
    plain = build_head(RECIPES["small"], 100, 50, generator)[0]
    assert plain.weight.abs().max() <= 0.1 and float(plain.weight.detach().std()) == pytest.approx(
        0.1 / 3**0.5, rel=0.03
    )
    normal = build_head(RECIPES["barlow"], 100, 50, generator)[0]
    assert float(normal.weight.detach().std()) == pytest.approx(0.01, rel=0.03) and (normal.bias == 0).all()
    norm, linear = build_head(RECIPES["mae"], 100, 50, generator)
    assert (
        norm.weight is None
        and norm.eps == 1e-6
        and float(linear.weight.detach().std()) == pytest.approx(0.01, rel=0.03)
    )


def test_schedules():
    mae = RECIPES["mae"]
    assert scale_at(mae, 0, 90, 1) == 0.0 and scale_at(mae, 5, 90, 1) == 0.5 and scale_at(mae, 10, 90, 1) == 1.0
    assert scale_at(mae, 50, 90, 1) == pytest.approx(0.5)
    small = RECIPES["small"]
    assert small.lr * scale_at(small, 199, 200, 1) == pytest.approx(1e-6)
    steps = [scale_at(RECIPES["transfer"], e * 3, 300, 3) for e in (0, 59, 60, 79, 80, 99)]
    assert steps == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    barlow = [scale_at(RECIPES["barlow"], s, 100 * 4, 4) for s in (0, 3, 200)]
    assert barlow == pytest.approx([1, 1, 0.5])


def test_same_seed_same_head_and_no_trace_in_the_global_generator():
    data = clouds(64, seed=1)
    before = torch.get_rng_state()
    one, two = (train_head(RECIPES["barlow"], data, 3, 5)[0].weight for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(one, train_head(RECIPES["barlow"], data, 3, 6)[0].weight)


def test_learning_rate_is_chosen_on_validation_data():
    data = Splits(clouds(100, seed=1), clouds(100, seed=2), clouds(100, seed=3))
    outcome = LinearSGD("transfer", lr=[1e-6, 1e-2], epochs=10).run(data, 0)[0]
    assert outcome.chosen["lr"] == 1e-2


def test_lars_step_by_hand():
    weight = torch.nn.Parameter(torch.tensor([[3.0, 4.0]]))
    bias = torch.nn.Parameter(torch.tensor([1.0]))
    optimiser = LARS([weight, bias], lr=2.0, momentum=0.5, weight_decay=0.1, trust=0.01)
    weight.grad, bias.grad = torch.tensor([[0.3, 0.0]]), torch.tensor([0.25])
    optimiser.step()
    # decayed gradient (0.6, 0.4), its norm sqrt(0.52), norm of the weight 5
    update = torch.tensor([[0.6, 0.4]]) * 0.01 * 5 / 0.52**0.5
    torch.testing.assert_close(weight.data, torch.tensor([[3.0, 4.0]]) - 2 * update)
    torch.testing.assert_close(bias.data, torch.tensor([0.5]))
    weight.grad, bias.grad = torch.zeros(1, 2), torch.zeros(1)
    optimiser.step()
    torch.testing.assert_close(bias.data, torch.tensor([0.5 - 2 * 0.125]))


def test_unknown_recipe():
    with pytest.raises(EvaluationError, match="barlow"):
        LinearSGD("barlo")
    assert "did you mean 'barlow'" in dict(LinearSGD.check_config({"recipe": "barlo"}))["recipe"]


def test_duplicate_rows_and_single_class_do_not_break():
    same = features(np.ones((10, 4)), [0, 1] * 5)
    assert LinearLBFGS(0.1).run(Splits(train=same, test=same), 0)[0].value == 0.5
