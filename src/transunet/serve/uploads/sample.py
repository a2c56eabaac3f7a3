"""An image to try the page with: the MNI152 template of T1-weighted MRI, which nilearn brings."""

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from transunet.data.checks.suitability import modality_of_name
from transunet.serve.bundles import ServedBundle

NAME = "MNI152 T1 template.nii.gz"
_PLACE = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"


def sample_for(bundles: Iterable[ServedBundle]) -> Path | None:
    """Return the template's file; None without nilearn, or where no bundle takes one channel of MR.

    Importing nilearn takes seconds, which its file does not need.
    """
    spec = find_spec("nilearn")
    folders = spec.submodule_search_locations if spec else None
    file = Path(folders[0]) / _PLACE if folders else None
    return file if file and file.is_file() and any(map(_takes_mr, bundles)) else None


def _takes_mr(bundle: ServedBundle) -> bool:
    if len(bundle.channels) != 1:
        return False
    seen = bundle.config.training_data
    return (seen.channels[0].modality if seen else modality_of_name(bundle.channels[0])) == "MR"
