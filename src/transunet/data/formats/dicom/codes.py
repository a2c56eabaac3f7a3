"""Names of structures -> the codes that a DICOM segmentation describes them with.

The codes are SNOMED CT's, as DICOM's own context groups list them. A name that is not here gets a
local code made of it, so that equal names have equal codes.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

SNOMED = "SCT"
LOCAL = "99TRANSUNET"
"""The scheme of local codes; a designator that begins with 99 is private."""


@dataclass(frozen=True)
class Code:
    """A coded concept."""

    value: str
    scheme: str
    meaning: str


ANATOMY = Code("91723000", SNOMED, "Anatomical Structure")
ABNORMAL = Code("49755003", SNOMED, "Morphologically Abnormal Structure")
RIGHT = Code("24028007", SNOMED, "Right")
LEFT = Code("7771000", SNOMED, "Left")

STRUCTURES: Mapping[str, str] = {
    "Abdominal aorta": "7832008",
    "Adrenal gland": "23451007",
    "Amygdala": "4958002",
    "Aorta": "15825003",
    "Bladder": "89837001",
    "Bone": "272673000",
    "Brain": "12738006",
    "Brain Stem": "119238007",
    "Brain ventricle": "35764002",
    "Caudate Nucleus": "11000004",
    "Cerebellum": "113305005",
    "Cerebral White Matter": "68523003",
    "Cerebrospinal Fluid": "65216001",
    "Colon": "71854001",
    "Duodenum": "38848004",
    "Esophagus": "32849002",
    "Femur": "71341001",
    "Gallbladder": "28231008",
    "Globus Pallidus": "14738005",
    "Gray Matter": "389081007",
    "Heart": "80891009",
    "Hippocampus": "5366008",
    "Inferior vena cava": "64131007",
    "Kidney": "64033007",
    "Lateral Ventricle": "66720007",
    "Left atrium": "82471001",
    "Left ventricle": "87878005",
    "Liver": "10200004",
    "Lung": "39607008",
    "Myocardium": "74281007",
    "Nucleus Accumbens": "427667007",
    "Pancreas": "15776009",
    "Portal vein": "32764006",
    "Prostate": "41216001",
    "Putamen": "89278009",
    "Rectum": "34402009",
    "Right atrium": "73829009",
    "Right ventricle": "53085002",
    "Small intestine": "30315005",
    "Spinal cord": "2748008",
    "Spleen": "78961009",
    "Splenic vein": "35819009",
    "Stomach": "69695003",
    "Thalamus": "42695009",
    "Thyroid": "69748006",
    "Trachea": "44567001",
    "Uterus": "35039007",
    "Vertebra": "51282000",
    "White Matter": "389080008",
}
"""Meaning -> SNOMED CT code of anatomical structures."""

ABNORMALITIES: Mapping[str, str] = {
    "Edema": "79654002",
    "Lesion": "52988006",
    "Necrosis": "6574001",
    "Neoplasm": "108369006",
}
"""Meaning -> SNOMED CT code of what should not be there."""

SYNONYMS: Mapping[str, str] = {
    "accumbens": "nucleus accumbens",
    "brainstem": "brain stem",
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

_SIDES = {"right": RIGHT, "r": RIGHT, "left": LEFT, "l": LEFT}


@dataclass(frozen=True)
class CodedStructure:
    """How a segment is described."""

    category: Code
    kind: Code
    side: Code | None = None


def structure(name: str) -> CodedStructure:
    """Return the codes of the structure called `name`, such as "liver" or "left kidney".

    Case, hyphens and the place of "left" and "right" do not matter.
    """
    words = re.findall(r"[^\W_]+", name.lower())
    if whole := _known(words):
        return whole
    sides = [word for word in words if word in _SIDES]
    rest = _known([word for word in words if word not in _SIDES])
    if rest and len(sides) == 1:
        return CodedStructure(rest.category, rest.kind, _SIDES[sides[0]])
    return CodedStructure(ANATOMY, local_code(name))


def local_code(name: str) -> Code:
    """Return a code of our own for `name`; equal names have equal codes."""
    value = hashlib.sha256(name.strip().lower().encode()).hexdigest()[:16]
    return Code(value, LOCAL, name)


def _known(words: list[str]) -> CodedStructure | None:
    name = " ".join(words)
    name = SYNONYMS.get(name, name)
    for category, table in ((ANATOMY, STRUCTURES), (ABNORMAL, ABNORMALITIES)):
        for meaning, code in table.items():
            if meaning.lower() == name:
                return CodedStructure(category, Code(code, SNOMED, meaning))
    return None
