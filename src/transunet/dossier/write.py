"""A dossier's folder, written whole or not at all."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from transunet.document import to_markdown
from transunet.dossier.dicom_statement import dicom_sections
from transunet.dossier.environment import environment_text
from transunet.dossier.facts import gather
from transunet.dossier.limits import limits_of
from transunet.dossier.model_card import card_sections, card_title
from transunet.dossier.page import dossier_page
from transunet.dossier.reproduction import files_to_train_again, reproduction
from transunet.dossier.sbom import sbom
from transunet.dossier.subject import open_subject
from transunet.errors import ConfigError
from transunet.files import writable_folder, writing
from transunet.optional import own_version, require

FORMAT_VERSION = 1
CARD, PAGE = "model_card.json", "index.html"
CONTENTS: Mapping[str, str] = {
    "model_card.md": "the model card as text",
    CARD: "the model card as data, with every case's figures",
    "sbom.cdx.json": "software, weights and data as a CycloneDX 1.6 bill of materials",
    "environment.txt": "the machine and the versions",
    "train_again.sh": "the commands that train it again",
    "recipe.json": "the recipe in effect, for these commands",
    "splits.json": "which cases train and validate, for these commands",
    "reproduction.json": "whether training again agrees to the bit",
    "dicom_conformance.md": "what this software reads and writes of DICOM",
}
"""What a dossier may hold beside its page."""


def write_dossier(
    source: Path,
    out: Path,
    *,
    evaluations: Iterable[Path] = (),
    purpose: str = "",
    licence: str = "",
    prove: int | None = None,
    told: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Write the dossier of a run, a bundle or an exported file, and return what its limits are.

    Args:
        source: see `open_subject`.
        out: a folder that is new, empty, or holds an earlier dossier, whose files are replaced.
        evaluations: folders that `transunet evaluate` wrote.
        purpose: what the model is for, in the user's words.
        licence: of the data, likewise.
        prove: how many steps to train twice; None for none.
        told: called with the steps done and those in all.

    Raises:
        ConfigError, DataError: for what cannot be used; nothing is written then.
        TransUNetError: when the steps cannot be trained here.
    """
    require("cyclonedx", "dossier")
    if out.exists() and not (out.is_dir() and ((out / CARD).is_file() or not any(out.iterdir()))):
        raise ConfigError(
            f"{out} is not an empty folder, and holds no earlier dossier. Choose another folder."
        )
    writable_folder(next(path for path in (out, *out.parents) if path.exists()))
    subject = open_subject(source)
    facts = gather(subject, evaluations, purpose, licence)
    again = reproduction(subject, prove, told)
    facts["reproduction"] = {key: again[key] for key in ("proved", "why")}
    facts["limits"] = limits = limits_of(subject, facts)
    sections = card_sections(facts)
    made = {"created": datetime.now(UTC).isoformat(timespec="seconds"), "transunet": own_version()}
    card = {"kind": "model card", "format_version": FORMAT_VERSION, "made": made, **facts}
    texts = {
        "model_card.md": to_markdown(card_title(facts), sections),
        CARD: _as_json(card),
        "sbom.cdx.json": sbom(facts, CARD),
        "environment.txt": environment_text(subject.config.versions),
        **files_to_train_again(subject),
        "reproduction.json": _as_json(again),
        "dicom_conformance.md": to_markdown("DICOM conformance statement", dicom_sections()),
    }
    curves = {
        run.folder.resolve().name: run.folder / "curves.png"
        for run in subject.trained
        if (run.folder / "curves.png").is_file()
    }
    files = {name: CONTENTS[name] for name in texts}
    texts[PAGE] = dossier_page(facts, sections, curves, files)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=out) as scratch:
            for name, text in texts.items():
                (Path(scratch) / name).write_text(text, encoding="utf-8")
            for run, picture in curves.items():
                shutil.copyfile(picture, Path(scratch) / f"curves_{run}.png")
            for file in sorted(Path(scratch).iterdir()):
                file.replace(out / file.name)
    return limits


def _as_json(values: object) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
