"""The catalogue: one record per published file, complete and without an invented figure."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from transunet.errors import ConfigError
from transunet.models.variants import VARIANTS
from transunet.weights.catalog import FILES, PARTS, SOURCES, files_for

HERE = Path(__file__).parent


def test_every_published_variant_has_its_files_in_every_source():
    published = {name for name in VARIANTS if "ViT-" in name and not name.startswith("R26")}
    assert set(PARTS) == published | {"TransUNet3D-encoder", "TransUNet3D"}
    for source in SOURCES:
        assert [len(files_for(name, source)) for name in ("R50-ViT-B_16", "R50-ViT-L_16")] == [1, 2]


def test_the_large_hybrid_takes_its_backbone_and_its_blocks_from_two_files():
    backbone, blocks = files_for("R50-ViT-L_16")
    assert backbone == files_for("R50-ViT-B_16")[0]
    assert blocks == files_for("ViT-L_16")[0]


def test_records_are_complete():
    assert len({file.key for file in FILES}) == len(FILES) == 6
    for file in FILES:
        assert file.address.startswith("https://")
        assert file.licence == "Apache-2.0"
        assert file.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", file.sha256)
        assert any(file in files_for(variant) for variant in PARTS)


def test_addresses():
    (hub,) = (file.address for file in files_for("R50-ViT-B_16"))
    assert hub == (
        "https://huggingface.co/timm/vit_base_r50_s16_224.orig_in21k/resolve/main/model.safetensors"
    )


def test_sizes_come_from_the_entries():
    timm = json.loads((HERE / "timm_names.json").read_text())
    for file in FILES:
        assert file.parameters == _count(timm[file.key])


def test_unknown_names_say_what_there_is():
    with pytest.raises(ConfigError, match=r"No imagenet21k weights .* 'R26-ViT-Ti_16'.*R50-ViT-B"):
        files_for("R26-ViT-Ti_16")
    with pytest.raises(ConfigError, match=r"'imagenet1k'. Known: imagenet21k\."):
        files_for("ViT-B_16", "imagenet1k")


@pytest.mark.process
def test_the_catalogue_imports_no_torch():
    modules = "sys, transunet.weights.catalog, transunet.cache, transunet.cli.weights"
    code = f"import {modules}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def _count(model):
    return sum(
        _product(shape) * (model["layers"] if "{i}" in name else 1)
        for name, shape in model["entries"].items()
    )


def _product(shape):
    result = 1
    for side in shape:
        result *= side
    return result
