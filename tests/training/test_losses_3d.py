"""What a 3D TransUNet is trained with is the reference's, its mistakes being switches."""

from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from golden_figures import normal, uniform
from golden_figures_3d import close_3d, config_3d, facts_3d, seeded_3d
from transunet.models.transunet3d.config import TransUNet3DConfig
from transunet.models.transunet3d.network import QueryOutputs
from transunet.models.transunet3d.query_decoder import QueryPrediction
from transunet.training.losses3d import TransUNet3DLoss
from transunet.training.matching import SetTargets, SetWeights, match, matching_costs, set_loss
from transunet.training.schedule import epoch_rate

pytestmark = pytest.mark.slow

LOSS = facts_3d()["loss"]
REGIONS = ((1, 2, 3), (2, 3), (3,))
SIZE = (6, 16, 16)


def drawn(name: str, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(2 * normal(name, shape)).requires_grad_()


def labels_of(name: str, size: tuple[int, ...]) -> Tensor:
    return torch.from_numpy((4 * uniform(name, (2, 1, *size))).astype(np.int64))[:, 0]


@pytest.fixture
def labels() -> Tensor:
    values = labels_of("loss3d/labels", SIZE)
    values[1][values[1] == 2] = 0
    return values


def prediction(tag: str, classes: int = 4) -> QueryPrediction:
    logits = drawn(f"loss3d/{tag}/pred_logits", (2, 20, 5))
    masks = drawn(f"loss3d/{tag}/pred_masks", (2, 20, *SIZE))
    return QueryPrediction(logits[..., : classes + 1], masks)


def configured(
    classes: int = 4, queries: bool = True, matching: str = "reference", **changes: Any
) -> TransUNet3DConfig:
    settings = {"hidden_size": 96, "matching": matching} if queries else None
    return TransUNet3DConfig(num_classes=classes, queries=settings, **changes)


def gradients(loss: Tensor, values: list[Tensor]) -> list[float]:
    found = torch.autograd.grad(loss, values, allow_unused=True)
    return [0.0 if gradient is None else float(gradient.norm()) for gradient in found]


def maps_and_labels(
    name: str, classes: int, sizes: list[tuple[int, ...]], labels: list[str]
) -> tuple[list[Tensor], list[Tensor]]:
    maps = [drawn(f"loss3d/{name}{i}", (2, classes, *size)) for i, size in enumerate(sizes)]
    return maps, [labels_of(f"loss3d/{n}", s) for n, s in zip(labels, sizes, strict=True)]


def set_targets(labels: Tensor) -> SetTargets:
    one_hot = torch.nn.functional.one_hot(labels, 4).movedim(-1, 1)
    return SetTargets(one_hot.flatten(2).float())


def test_matching_costs_and_assignments_are_the_references(labels: Tensor) -> None:
    targets = set_targets(labels)
    costs = matching_costs(prediction("final"), targets)
    for sample, present in enumerate(LOSS["labels_present"]):
        for name, cost in (
            ("class", costs.classes),
            ("ce", costs.cross_entropy),
            ("dice", costs.dice),
            ("total", costs.total(SetWeights())),
        ):
            close_3d(f"loss/cost_{name}{sample}", cost[sample][:, present], 2e-6)

    pairs = match(costs.total(SetWeights()), targets)
    for sample, (rows, columns) in enumerate(LOSS["assignment"]):
        of_sample = pairs.sample == sample
        assert pairs.query[of_sample].tolist() == rows
        assert pairs.label[of_sample].tolist() == [
            LOSS["labels_present"][sample][column] for column in columns
        ]

    # fidelity: the reference trains the same queries, in their order, on the classes in theirs.
    theirs = match(costs.total(SetWeights()), targets, "reference")
    assert torch.equal(theirs.query, pairs.query)
    assert theirs.label.tolist() == [0, 1, 2, 3, 0, 1, 3]


def test_matching_is_the_cheapest_of_all() -> None:
    costs = torch.rand(1, 5, 3, generator=torch.Generator().manual_seed(0))
    targets = SetTargets(torch.ones(1, 3, 2))
    pairs = match(costs, targets)
    cheapest = min(sum(costs[0, q, k] for k, q in enumerate(p)) for p in permutations(range(5), 3))
    assert costs[0, pairs.query, pairs.label].sum() == cheapest


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("hungarian", {}),
        ("hungarian_no_object_0.1", {"no_object_weight": 0.1}),
        ("hungarian_cost_1_1_1", {"weights": SetWeights(1, 1, 1)}),
    ],
)
def test_the_set_loss_is_the_references(labels: Tensor, name: str, options: dict) -> None:
    last = prediction("final")
    loss = TransUNet3DLoss(configured(), **options)(QueryOutputs((last,), ()), labels)
    expected = LOSS[name]
    assert loss.item() == pytest.approx(expected["total"], rel=1e-6)
    of_logits, of_masks = torch.autograd.grad(loss, list(last))
    assert float(of_logits.norm()) == pytest.approx(expected["grad_norm_logits"], rel=1e-5)
    assert float(of_masks.norm()) == pytest.approx(expected["grad_norm_masks"], rel=1e-5)
    if name == "hungarian":
        close_3d("loss/hungarian_grad_logits", of_logits)
        close_3d("loss/hungarian_grad_masks", of_masks)
        targets = set_targets(labels)
        pairs = match(matching_costs(last, targets).total(SetWeights()), targets, "reference")
        for part, weights in (
            ("mask_ce", SetWeights(0, 10, 0)),
            ("mask_dice", SetWeights(0, 0, 10)),
        ):
            alone = set_loss(last, targets, pairs, weights).item()
            assert alone == pytest.approx(LOSS["hungarian_parts"][part], rel=1e-6)


@pytest.mark.parametrize(
    ("name", "combination"),
    [
        ("decoder_only_v1", "halves"),
        ("decoder_only_mean", "mean"),
        ("decoder_only_v0", "sum"),
        ("decoder_only_exp", "exponential"),
        ("both_v1", "halves"),
        ("both_v1_batch_dice", "halves"),
        ("both_v1_regions", "halves"),
    ],
)
def test_losses_with_queries_are_the_references(
    labels: Tensor, name: str, combination: str
) -> None:
    expected = LOSS[name]
    regions = REGIONS if expected["regions"] else ()
    classes = 3 if regions else 4
    sizes = [(6, 8, 8), (3, 4, 4), (3, 2, 2), (3, 1, 1)] if expected["ds"] else []
    maps, coarser = maps_and_labels(
        "ds", classes, sizes, [f"labels_ds{i}" for i in range(len(sizes))]
    )
    predictions = [prediction(tag, classes) for tag in ("aux0", "aux1", "aux2", "final")]
    criterion = TransUNet3DLoss(
        configured(classes, regions=regions), combination, batch_dice=expected["batch_dice"]
    )
    loss = criterion(QueryOutputs(tuple(predictions), tuple(maps)), [labels, *coarser])
    assert loss.item() == pytest.approx(expected["total"], rel=1e-6)
    *auxiliary, last = predictions
    norms = gradients(loss, [last.masks, last.logits, *(p.masks for p in auxiliary), *maps])
    wanted = [expected["grad_norm_final_masks"], expected["grad_norm_final_logits"]]
    wanted += expected["grad_norm_aux_masks"] + (expected["grad_norm_ds"] or [])
    assert norms == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("name", ["encoder_only", "encoder_only_batch_dice"])
def test_the_loss_without_queries_is_the_references(labels: Tensor, name: str) -> None:
    sizes = [SIZE, (6, 8, 8), (3, 4, 4)]
    maps, scales = maps_and_labels("enc", 4, sizes, ["labels", "labels_ds0", "labels_ds1"])
    scales[0] = labels
    batch_dice = name.endswith("batch_dice")
    loss = TransUNet3DLoss(configured(queries=False), batch_dice=batch_dice)(maps, scales)
    assert loss.item() == pytest.approx(LOSS[name]["total"], rel=1e-6)
    if not batch_dice:
        close_3d(
            "loss/encoder_only_grad0", torch.autograd.grad(loss, maps[0], retain_graph=True)[0]
        )
    assert gradients(loss, maps) == pytest.approx(LOSS[name]["grad_norms"], rel=1e-5)


def test_the_right_matching_gives_another_loss(labels: Tensor) -> None:
    outputs = QueryOutputs((prediction("final"),), ())
    theirs, ours = (
        TransUNet3DLoss(configured(matching=matching))(outputs, labels).item()
        for matching in ("reference", "hungarian")
    )
    assert ours / theirs == pytest.approx(0.915, abs=0.002)  # 8 % less


def trained(name: str, dtype: torch.dtype, steps: int) -> tuple[Tensor, list, list, dict]:
    """Train as the reference did: prediction, losses, gradient norms, those of the first step."""
    fact = facts_3d()["train"][name]
    case = fact["config"]
    has_vit = case["model"]["is_max_bottleneck_transformer"]
    config = config_3d(case, **({"vit": {"dropout": 0.0}} if has_vit else {}))
    model = seeded_3d(config).train().to(dtype)
    shape, factors = tuple(case["patch"]), fact["label_factor"]
    images = torch.from_numpy(uniform("train3d/images", (2, case["in"], *shape))).to(dtype)
    small = (2, 1, *(side // factor for side, factor in zip(shape, factors, strict=True)))
    values = (case["classes"] * uniform("train3d/labels", small)).astype(np.int64)[:, 0]
    labels = torch.from_numpy(np.kron(values, np.ones((1, *factors), np.int64)))
    if fact["optimizer"] == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(
            model.parameters(),
            lr=fact["lr"],
            momentum=fact["momentum"],
            nesterov=fact["nesterov"],
            weight_decay=fact["weight_decay"],
        )
    else:
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=fact["lr"], weight_decay=fact["weight_decay"]
        )
    criterion = TransUNet3DLoss(config)
    losses, norms, first = [], [], {}
    for step in range(steps):
        optimizer.zero_grad()
        loss = criterion(model.training_outputs(images, nn.ModuleList()), labels)
        loss.backward()
        if step == 0:
            first = {
                key: None if p.grad is None else float(p.grad.norm())
                for key, p in model.named_parameters()
            }
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), fact["clip"])))
        optimizer.step()
        losses.append(loss.item())
    with torch.inference_mode():
        logits = model.eval()(images)
    return logits.exp() if config.queries else logits, losses, norms, first


@pytest.mark.parametrize(
    "name",
    [
        name if name == "both_ls_sgd" else pytest.param(name, marks=pytest.mark.slow)
        for name in facts_3d()["train"]
    ],
)
def test_two_steps_of_training_are_the_references(name: str) -> None:
    fact = facts_3d()["train"][name]
    _, losses, norms, first = trained(name, torch.float32, 2)
    assert losses == pytest.approx(fact["float32"]["losses"], rel=1e-4)
    assert norms == pytest.approx(fact["float32"]["grad_norms"], rel=1e-4)
    assert [key for key, norm in first.items() if norm is None] == fact["no_grad"]
    for key, norm in fact["first_grad_norms"].items():
        if not key.endswith("conv.bias"):  # noise: a norm follows
            assert first[key] == pytest.approx(norm, rel=1e-3, abs=1e-7), key


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [  # half a minute each; the two differ in layer scales alone
        pytest.param(name, marks=pytest.mark.exhaustive) if name == "both_sgd" else name
        for name in facts_3d()["train"]
    ],
)
def test_five_steps_of_training_are_the_references(name: str) -> None:
    fact = facts_3d()["train"][name]["float64"]
    predicted, losses, norms, _ = trained(name, torch.float64, 5)
    adaptive = name == "decoder_adamw"  # which amplifies the flip of a token's mask
    assert losses == pytest.approx(fact["losses"], rel=1e-5 if adaptive else 3e-7)
    assert norms == pytest.approx(fact["grad_norms"], rel=1e-3 if adaptive else 1e-5)
    close_3d(f"train/{name}_after5", predicted, 1e-2 if adaptive else 1e-5)


@pytest.mark.parametrize("base", facts_3d()["schedule"])
def test_the_learning_rate_is_the_references(base: str) -> None:
    rates = [epoch_rate(epoch, float(base)) for epoch in range(125)]
    assert rates == pytest.approx(facts_3d()["schedule"][base], rel=1e-12, abs=1e-15)


def test_nothing_is_learned_of_what_nobody_labelled(labels: Tensor) -> None:
    """Losses of labels with an unlabelled part are those of the labelled part alone."""
    part = labels.clone()
    part[:, 3:] = 9
    for queries in (True, False):
        criterion = TransUNet3DLoss(configured(queries=queries), ignored=9)
        plain = TransUNet3DLoss(configured(queries=queries))
        if queries:
            whole = prediction("final")
            upper = QueryPrediction(whole.logits, whole.masks[:, :, :3])
            found = criterion(QueryOutputs((whole,), ()), part)
            expected = plain(QueryOutputs((upper,), ()), labels[:, :3])
        else:
            logits = drawn("loss3d/enc0", (2, 4, *SIZE))
            found, expected = criterion([logits], part), plain([logits[:, :, :3]], labels[:, :3])
        torch.testing.assert_close(found, expected)
        if not queries:
            assert not torch.autograd.grad(found, logits)[0][:, :, 3:].any()


def test_a_batch_that_shows_no_region_has_a_loss() -> None:
    criterion = TransUNet3DLoss(configured(3, regions=REGIONS))
    last = prediction("final", 3)
    nothing = torch.zeros((2, *SIZE), dtype=torch.int64)
    maps = (drawn("loss3d/ds0", (2, 3, 6, 8, 8)),)
    loss = criterion(QueryOutputs((last,), maps), nothing)
    loss.backward()
    assert torch.isfinite(loss)


def test_a_loss_that_is_not_finite_is_returned_and_not_raised(labels: Tensor) -> None:
    last = prediction("final")
    broken = QueryPrediction(last.logits, last.masks * float("nan"))
    assert torch.isnan(TransUNet3DLoss(configured())(QueryOutputs((broken,), ()), labels))


def test_processes_that_share_a_batch_see_the_loss_of_the_whole(labels: Tensor) -> None:
    """Each has one sample here; sums of the other's are what `reduce` adds."""
    for batch_dice in (False, True):
        for queries in (True, False):
            config = configured(queries=queries)
            whole = prediction("final")
            maps = [drawn("loss3d/enc0", (2, 4, *SIZE)), drawn("loss3d/enc1", (2, 4, 6, 8, 8))]

            def share(
                i: slice, queries: bool = queries, whole: Any = whole, maps: Any = maps
            ) -> Any:
                if not queries:
                    return [m[i] for m in maps]
                return QueryOutputs(
                    (QueryPrediction(whole.logits[i], whole.masks[i]),), (maps[1][i],)
                )

            expected = TransUNet3DLoss(config, batch_dice=batch_dice)(share(slice(2)), labels)
            sent: list[Tensor] = []
            TransUNet3DLoss(
                config,
                batch_dice=batch_dice,
                reduce=lambda sums, sent=sent: sent.append(sums) or sums,
            )(share(slice(1, 2)), labels[1:])
            criterion = TransUNet3DLoss(
                config, batch_dice=batch_dice, reduce=lambda sums, sent=sent: sums + sent.pop(0)
            )
            torch.testing.assert_close(criterion(share(slice(1)), labels[:1]), expected)
            assert not sent
