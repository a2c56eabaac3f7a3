"""The OpenAPI description, fuzzed: no 5xx, and every answer is one that it tells of."""

import subprocess
import sys
from importlib.util import find_spec

import pytest

from serving import API, image_bytes

pytestmark = pytest.mark.skipif(
    find_spec("schemathesis") is None,
    reason="fuzzing needs schemathesis: pip install 'transunet-torch[dev]'",
)

# Left out: `positive_data_acceptance`, since bytes that fit the description of a file are no image;
# and methods that HTTP has and the description does not are tested elsewhere.
CHECKS = ",".join(
    (
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
        "negative_data_rejection",
        "unsupported_method",
        "allow_header_conformance",
        "use_after_free",
    )
)
CONFIGURATION = """
[parameters]
"path.id" = ["{image}", "{job}", "gone"]
"""


def test_the_api_keeps_to_its_description(server, client, tmp_path):
    job = client.segment(("a.nii.gz", image_bytes(0)))
    configuration = tmp_path / "schemathesis.toml"
    configuration.write_text(CONFIGURATION.format(image=job["image"], job=job["id"]))
    found = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(configuration)),
            *("run", f"{server.address}{API}/openapi.json", "--checks", CHECKS),
            *("--max-examples", "5", "--seed", "1", "--no-color"),
            *("--phases", "examples,coverage,fuzzing,stateful", "--warnings", "off"),
        ],
        capture_output=True,
        text=True,
        timeout=150,
        cwd=tmp_path,
        env=_environment(tmp_path),
    )
    assert found.returncode == 0, found.stdout[-8000:] + found.stderr[-2000:]
    assert "generated" in found.stdout


def _environment(folder):
    import os

    return {**os.environ, "HOME": str(folder), "NO_PROXY": "*"}
