"""The model card as sections, of the facts alone.

The headings are those of Mitchell et al., Model cards for model reporting (FAT* 2019).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from transunet.data.text import counted, extents
from transunet.document import Block, CardTable, Section
from transunet.dossier.facts import Facts, licence_of_data
from transunet.evaluation.bootstrap import INTERVAL
from transunet.evaluation.metrics import BAD_BELOW
from transunet.training.runs import flat

NOT_STATED = "not stated"
NOT_KNOWN = "not known"
_CHEN_2021 = (
    "J. Chen, Y. Lu, Q. Yu, X. Luo, E. Adeli, Y. Wang, L. Lu, A. L. Yuille, Y. Zhou. TransUNet: "
    "Transformers Make Strong Encoders for Medical Image Segmentation. arXiv:2102.04306, 2021."
)
_CHEN_2024 = (
    "J. Chen et al. TransUNet: Rethinking the U-Net architecture design for medical image "
    "segmentation through the lens of transformers. Medical Image Analysis 97, 103280, 2024."
)
CITATIONS: Mapping[str, tuple[str, ...]] = {
    "transunet2d": (_CHEN_2021, _CHEN_2024),
    "transunet3d": (_CHEN_2024,),
}
"""Family of networks -> what to cite for it."""


def card_title(facts: Facts) -> str:
    """Return what the card is called."""
    data = facts["data"]["name"]
    return f"Model card: {facts['model']['name']}" + (f" for {data}" if data else "")


def card_sections(facts: Facts) -> list[Section]:
    """Return the sections of a model card."""
    written = {
        "Model details": _details,
        "Intended use": _intended_use,
        "Factors": _factors,
        "Metrics": _metrics,
        "Evaluation data": _evaluation_data,
        "Training data": _training_data,
        "Quantitative analyses": _quantitative_analyses,
        "Ethical considerations": _ethical_considerations,
        "Caveats and recommendations": lambda facts: [tuple(facts["limits"])],
        "How it was trained": _training,
        "How to cite": _citation,
    }
    return [Section(title, tuple(write(facts))) for title, write in written.items()]


def _details(facts: Facts) -> Iterator[Block]:
    model = facts["model"]
    sampling = model["sampling"]
    size = extents(sampling["size"])
    context = sampling.get("context")
    takes = f"{sampling['kind']} of {size} pixels" + (
        f", with {context} neighbours on each side" if context else ""
    )
    spacing = model["spacing_mm"]
    several = f"{model['networks']} networks (folds), each of " if model["networks"] > 1 else ""
    yield CardTable(
        ("", ""),
        (
            ("network", f"{model['name']} (family {model['family']})"),
            ("parameters", f"{several}{model['parameters']:,}"),
            ("takes", f"{takes}; axes in the order {model['orientation']}"),
            ("voxel size", _sides(spacing) if spacing else "the image's own"),
            ("channels", "; ".join(model["channels"])),
            ("finds", "; ".join(f"{n} {name}" for n, name in model["structures"].items())),
            ("written with", _pairs(model["written_with"])),
            ("run begun with", f"transunet {_text(model['begun_with'])}"),
            *((f"SHA-256 of {weights['file']}", weights["sha256"]) for weights in model["weights"]),
        ),
    )
    yield f"Starting weights: {_starting_weights(facts['starting_weights'])}."


def _intended_use(facts: Facts) -> Iterator[Block]:
    yield f"Purpose, as its maker states it: {facts['purpose'] or NOT_STATED}."
    seen = facts["data"]
    kinds = sorted({kind for kind in seen["modality"] or () if kind})
    yield (
        f"It was made of {' and '.join(kinds) or 'images of a kind that is not known'}, and marks "
        "something in any image; transunet predict refuses images of another kind and warns of "
        "unusual ones. It is research software, and nobody has assessed it as a medical device."
    )


def _factors(facts: Facts) -> Iterator[Block]:
    data = facts["data"]
    rows = [("modality", ", ".join(kind or NOT_KNOWN for kind in data["modality"] or [None]))]
    if spacing := data.get("spacing_mm"):
        low, high = (_sides(spacing[end]) for end in ("minimum", "maximum"))
        rows.append(("voxel size, from slice, row and column to the next", _range(low, high)))
    if size := data.get("size"):
        low, high = (extents(size[end]) for end in ("minimum", "maximum"))
        rows.append(("slices, rows and columns", _range(low, high)))
    if turned := data.get("orientations"):
        rows.append(("orientation", ", ".join(f"{k} ({n} cases)" for k, n in turned.items())))
    yield CardTable(("factor", "in the training data"), tuple(rows))
    if not any(figures["of_groups"] for figures in facts["evaluations"]):
        yield (
            "Age, sex, scanner, site and disease of the patients are not in these records, and "
            "whether the figures differ among such groups is not known."
        )


def _metrics(facts: Facts) -> Iterator[Block]:
    yield (
        "Dice, 2 |P and R| / (|P| + |R|), per case and structure, of whole volumes on their own "
        f"grid. {INTERVAL}"
    )
    for figures in facts["evaluations"]:
        yield f"{figures['name']}: {figures['policy']}"


def _evaluation_data(facts: Facts) -> Iterator[Block]:
    validation, items = facts["validation"], []
    if validation:
        items.append(
            f"Validation: {validation['cases']} cases, held out by the split ({_rule(facts)}); the "
            "kept network is the best of those that they were predicted with."
        )
    items += [
        f"Evaluation against {figures['name']}: {figures['cases']} cases, measured "
        f"{figures['created']}."
        for figures in facts["evaluations"]
    ]
    yield tuple(items) or "None is known."


def _training_data(facts: Facts) -> Iterator[Block]:
    data, split = facts["data"], facts["split"]
    rows = [
        ("name", data["name"] or NOT_KNOWN),
        ("cases", _text(data["cases"])),
        ("licence, as its user states it", data["licence"] or NOT_STATED),
        *((f"{key}, as dataset.json states it", value) for key, value in data["said"].items()),
    ]
    if split:
        parts = split["parts"]
        counts = "; ".join(
            f"{len(part['train'])} train, {len(part['validation'])} validate, "
            f"{len(part['test'])} are left for testing"
            for part in parts
        )
        rows.append(("split", f"{split['rule']}: {counts}"))
    if "sha256" in data:
        rows.append((f"SHA-256 of the hashes of its {data['files']} files", data["sha256"]))
    yield CardTable(("", ""), tuple(rows))
    if "intensities" in data:
        head = ("channel", "least", "0.5 %", "median", "99.5 %", "largest", "mean", "deviation")
        names = (channel.partition(":")[0] for channel in facts["model"]["channels"])
        yield CardTable(
            head, tuple((n, *_spread(i)) for n, i in zip(names, data["intensities"], strict=True))
        )
        total = sum(each["voxels"] for each in data["classes"].values())
        yield CardTable(
            ("class", "voxels", "share", "cases that have it"),
            tuple(
                (name, f"{c['voxels']:,}", f"{c['voxels'] / total:.3%}", str(c["cases"]))
                for name, c in data["classes"].items()
            ),
        )


def _quantitative_analyses(facts: Facts) -> Iterator[Block]:
    if validation := facts["validation"]:
        yield f"Validation cases ({validation['cases']}), Dice:"
        yield _dice_table(validation)
    for figures in facts["evaluations"]:
        yield f"{figures['name']} ({figures['cases']} cases):"
        yield _dice_table(figures)
        others = [key for key in figures["mean_of_metrics"] if not key.startswith("dice")]
        if others:
            yield CardTable(
                ("structure", *others),
                tuple(
                    (name, *(_measured(of[key]["mean"], of[key]["interval_95"]) for key in others))
                    for name, of in figures["metrics"].items()
                ),
            )
        if told := [*figures["of_groups"], *figures["of_audit"]]:
            yield tuple(told)
    if not validation and not facts["evaluations"]:
        yield "No figures are known."
    trust = facts["trust"]
    if trust is None:
        yield f"How far to trust a single result: {NOT_KNOWN}, as nothing was fitted (calibrate)."
        return
    yield f"How far to trust a single result, fitted on {counted(trust['cases'], 'held-out case')}:"
    yield CardTable(
        (
            "structure",
            "expected Dice is off by",
            "its interval holds (of 90 %)",
            "the volume's holds (of 90 %)",
        ),
        tuple(
            (
                name,
                _text(each["expected_dice_error"], ".3f"),
                _text(each["expected_dice_coverage"], ".0%"),
                _text(each["volume_coverage"], ".0%"),
            )
            for name, each in trust["structures"].items()
        ),
    )
    if trust["ece"]:
        yield (
            "Expected calibration error of the probabilities (voxels in doubt): "
            f"{trust['ece'][0]:.4f} before, {trust['ece'][1]:.4f} after tempering by "
            f"{trust['temperature']:.2f}; Brier score {trust['brier'][0]:.4f} before, "
            f"{trust['brier'][1]:.4f} after."
        )


def _ethical_considerations(facts: Facts) -> Iterator[Block]:
    data = facts["data"]
    said = licence_of_data(facts)
    yield (
        "The weights were computed from images of "
        f"{_text(data['cases'])} cases. Licence of these data: {said or NOT_STATED}. It decides "
        "on passing the weights on, as does that of the starting weights, above."
    )


def _training(facts: Facts) -> Iterator[Block]:
    for run in facts["training"]:
        ended = "ended" if run["ended"] else f"has not ended ({run['progress']:.0%} of its budget)"
        seconds = f", {run['seconds'] / 3600:.2f} hours" if run["seconds"] else ""
        yield (
            f"{run['run']}: {ended}; {run['steps']} steps, {run['epochs']} epochs{seconds}; "
            f"{len(run['validations'])} validations, the best at step {_text(run['best_step'])}."
        )
    again = facts["reproduction"]
    yield f"Trained again: {'proved' if again['proved'] else 'not proved'}, {again['why']}."
    if not facts["recipe"]:
        yield f"The recipe is {NOT_KNOWN}."
        return
    settings = flat(facts["recipe"])
    yield CardTable(
        ("setting", "value"), tuple((key, str(value)) for key, value in settings.items())
    )


def _citation(facts: Facts) -> Iterator[Block]:
    data = facts["data"]["said"].get("reference")
    of_data = (f"The data: {data}.",) if data else ()
    yield (*CITATIONS.get(facts["model"]["family"], ()), *of_data)


def _dice_table(figures: Facts) -> CardTable:
    rows = [
        (
            name,
            str(each["counted"]),
            _measured(each["mean"], each["interval_95"]),
            _text(each["median"], ".3f"),
            _text(each["least"], ".3f"),
            str(len(each["bad"])),
        )
        for name, each in figures["structures"].items()
    ]
    mean = _measured(figures["mean_dice"], figures["mean_dice_interval_95"])
    rows.append(("mean of the structures", "", mean, "", "", ""))
    head = ("structure", "cases", "mean [95 % interval]", "median", "least", f"below {BAD_BELOW}")
    return CardTable(head, tuple(rows))


def _spread(intensity: Facts) -> Iterator[str]:
    ends = (intensity["minimum"], *intensity["percentiles"], intensity["maximum"])
    for value in (*ends, intensity["mean"], intensity["deviation"]):
        yield f"{value:.4g}"


def _starting_weights(weights: Facts | None) -> str:
    if weights is None:
        return NOT_KNOWN
    if weights["kind"] == "random":
        return "none, from random ones"
    return "; ".join(
        f"{file['address']} (licence {file['licence'] or NOT_STATED}"
        + (f", SHA-256 {file['sha256']})" if file["sha256"] else ")")
        for file in weights["files"]
    )


def _rule(facts: Facts) -> str:
    return str(facts["split"]["rule"]) if facts["split"] else NOT_KNOWN


def _measured(mean: float | None, interval: Sequence[float] | None) -> str:
    between = f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
    return _text(mean, ".3f") + between


def _text(value: Any, form: str = "") -> str:
    return NOT_KNOWN if value is None else format(value, form)


def _sides(spacing: Sequence[float | None]) -> str:
    return f"{extents(spacing, 'g')} mm"


def _range(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"


def _pairs(values: Mapping[str, str]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items()) or NOT_KNOWN
