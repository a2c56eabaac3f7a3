"""A bundle's README.md: the short form of a model card, with the metadata that the hub shows.

https://huggingface.co/docs/hub/model-cards. It ends with a mark that holds a hash of what stands
above, so that one that somebody has edited is known, and stays.
"""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from transunet.bundle.trust_config import Trust
from transunet.data.checks.suitability import MODALITIES
from transunet.data.text import counted, extents
from transunet.document import Block, CardTable, Section, to_markdown
from transunet.files import write_text

if TYPE_CHECKING:
    from transunet.bundle.bundle_config import BundleConfig

README = "README.md"
_MARK = "\n<!-- Written by transunet, and anew with the bundle until you edit it: {} -->\n"


def write_readme(config: "BundleConfig", folder: Path) -> None:
    """Write the README of a bundle, unless somebody's own stands there.

    Raises:
        ConfigError: when the folder cannot be written to.
    """
    path = folder / README
    if not path.exists() or _is_ours(path.read_bytes()):
        text = readme_of(config)
        write_text(text + _mark_of(text), path)


def readme_of(config: "BundleConfig") -> str:
    """Return the README but for its mark: what the bundle's configuration tells."""
    seen, structures = config.training_data, ", ".join(config.structures.values())
    kinds = (
        sorted({channel.modality for channel in seen.channels if channel.modality}) if seen else []
    )
    metadata = (
        "---",
        "license: unknown",
        "library_name: transunet",
        "pipeline_tag: image-segmentation",
        "tags:",
        *(f"- {tag}" for tag in ("transunet", "medical-imaging", *map(str.lower, kinds))),
        "metrics:",
        "- dice",
        "---",
    )
    of = " and ".join(MODALITIES[kind] for kind in kinds) or "images"
    sections = [
        Section("What it is", tuple(_what_it_is(config))),
        Section("How far to trust it", tuple(_trust(config.trust))),
        Section("What is not stated here", (_NOT_STATED,)),
    ]
    page = to_markdown(f"{config.architecture.name}: {structures} in {of}", sections)
    return "\n".join(metadata) + "\n\n" + page


_NOT_STATED = (
    "Its purpose, the licence of its weights and of its data (license: unknown, above), and how it "
    "does on cases of another source. Write them here; this file then stays yours.",
    "transunet dossier RUN writes the whole model card, with the figures of its run.",
    "It is research software, and nobody has assessed it as a medical device.",
)


def facts_of(config: "BundleConfig") -> list[tuple[str, str]]:
    """Return what a bundle is: the fact's name and the fact in words."""
    seen, sampling = config.training_data, config.sampling
    rows = [
        ("network", f"{config.architecture.name} ({config.architecture.family})"),
        ("takes", f"{sampling.kind} of {extents(sampling.size)} pixels"),
        ("channels", ", ".join(channel.name for channel in config.preprocessing.channels)),
        ("finds", ", ".join(f"{number} {name}" for number, name in config.structures.items())),
        ("written with", ", ".join(f"{name} {v}" for name, v in config.versions.items())),
    ]
    if config.ranges is not None:
        rows.append(("in int8", str(config.ranges.fidelity or "not compared")))
    if seen is not None:
        ends = dict.fromkeys(extents(end, ".3g") for end in seen.spacing_mm)
        rows.append(
            ("its data", f"{counted(seen.cases, 'case')}, voxels of {' to '.join(ends)} mm")
        )
        if seen.mirror_axes is not None:
            names = ("planes", "rows", "columns")[-len(sampling.size) :]
            axes = ", ".join(names[axis] for axis in seen.mirror_axes)
            rows.append(("mirrored along", axes or "nothing: no --mirror for it"))
    return rows


def _what_it_is(config: "BundleConfig") -> Iterator[Block]:
    yield CardTable(("", ""), tuple(facts_of(config)))
    yield "Use it: transunet predict FOLDER IMAGE -o LABELS, with the folder of this file."


def _trust(trust: Trust | None) -> Iterator[Block]:
    if trust is None:
        yield "Not known: nothing was fitted on held-out cases (transunet calibrate)."
        return
    yield (
        f"Fitted on {counted(trust.cases, 'held-out case')}: by how much the Dice that it "
        "expects of a result is off, and how often its intervals, of nine in ten, hold."
    )
    rows = []
    for name, each in trust.structures.items():
        figures = zip(each.held_out_figures.values(), (".3f", ".0%", ".0%"), strict=True)
        told = ("not known" if f is None else format(f, digits) for f, digits in figures)
        rows.append((name, *told))
    head = ("structure", "expected Dice is off by", "its interval holds", "the volume's")
    yield CardTable(head, tuple(rows))


def _mark_of(text: str) -> str:
    return _MARK.format(sha256(text.encode()).hexdigest())


def _is_ours(content: bytes) -> bool:
    """Whether a README is one of ours that nobody has edited."""
    text = content.decode("utf-8", "replace").replace("\r\n", "\n")
    above, begins, _ = text.rpartition(_MARK.partition("{")[0])
    return bool(begins) and text == above + _mark_of(above)
