"""Names of structures -> the codes that a DICOM segmentation describes them with.

The codes are SNOMED CT's, from the context groups of the standard, which pydicom holds. A name that
is in none of them gets a local code made of it, so that equal names have equal codes.
"""

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from transunet.optional import require

LOCAL = "99TRANSUNET"
"""The scheme of local codes; a designator that begins with 99 is private."""
GROUPS = {"CID7192": "AnatomicalStructure", "CID7194": "MorphologicallyAbnormalStructure"}
"""Context group of structures -> SNOMED CT's keyword of the category that they are of."""
SYNONYMS = {
    "accumbens": "nucleus accumbens",
    "caudate": "caudate nucleus",
    "csf": "cerebrospinal fluid",
    "grey matter": "gray matter",
    "hippocampi": "hippocampus",
    "ivc": "inferior vena cava",
    "kidneys": "kidney",
    "lungs": "lung",
    "oedema": "edema",
    "oesophagus": "esophagus",
    "pallidum": "globus pallidus",
    "postcava": "inferior vena cava",
    "small bowel": "small intestine",
    "tumor": "neoplasm",
    "tumour": "neoplasm",
    "urinary bladder": "bladder",
}
"""Other words, lower case."""

# The groups have their parts only.
_WHOLES = {"bone": ("272673000", "Bone"), "myocardium": ("74281007", "Myocardium")}
_SIDES = {"right": "Right", "r": "Right", "left": "Left", "l": "Left"}


@dataclass(frozen=True)
class CodedStructure:
    """How a segment is described, in pydicom's codes."""

    category: Any
    kind: Any
    side: Any = None


def structure(name: str) -> CodedStructure:
    """Return the codes of the structure called `name`, such as "liver" or "left kidney".

    Case, hyphens and the place of "left" and "right" do not matter.

    Raises:
        ConfigError: without pydicom.
    """
    sr = require("pydicom.sr", extra="dicom")
    words = re.findall(r"[^\W_]+", name.lower())
    sides = [word for word in words if word in _SIDES]
    rest = [word for word in words if word not in _SIDES]
    for known, side in ((words, []), (rest, sides)):
        text = " ".join(known)
        keyword = SYNONYMS.get(text, text).replace(" ", "")
        for group, category in GROUPS.items():
            concepts = _concepts_in(group)
            if keyword in _WHOLES:
                value, meaning = _WHOLES[keyword]
                kind = sr.Code(value, "SCT", meaning)
            elif keyword in concepts:
                kind = getattr(sr.Collection(group), concepts[keyword])
            else:
                continue
            if len(side) < 2:
                which = getattr(sr.codes.SCT, _SIDES[side[0]]) if side else None
                return CodedStructure(getattr(sr.codes.SCT, category), kind, which)
    value = hashlib.sha256(name.strip().lower().encode()).hexdigest()[:16]
    return CodedStructure(sr.codes.SCT.AnatomicalStructure, sr.Code(value, LOCAL, name))


@cache
def _concepts_in(group: str) -> dict[str, str]:
    """Keyword in lower case -> keyword; pydicom takes 10 ms to list them."""
    keywords = require("pydicom.sr", extra="dicom").Collection(group).dir()
    return {keyword.lower(): keyword for keyword in keywords}
