import json
from pathlib import Path

import pytest

from prediction import tiny_config
from transunet.backends.exported import CONFIG, FINGERPRINT, FORMAT, KEYS, pack, unpack
from transunet.bundle.bundle_config import BundleConfig
from transunet.data.checks.suitability import SeenChannel, TrainingData
from transunet.data.preprocessing import Channel, Preprocessing
from transunet.errors import ConfigError, DataError

FILE = Path("model.onnx")
SPAN = ((0.0, 1.0, 2.0), (0.5, 1.5, 3.0))


@pytest.fixture
def config() -> BundleConfig:
    return BundleConfig(
        architecture=tiny_config(),
        preprocessing=Preprocessing(channels=(Channel(name="MRI"),)),
        labels={0: "background", 1: "Großhirn", 2: "right"},
        training_data=TrainingData(
            cases=2,
            channels=(SeenChannel(modality="MR", percentiles=SPAN, standardised=SPAN),),
            spacing_mm=SPAN,
            view_mm=((8, 9), (8, 9)),
        ),
    )


def test_what_is_packed_is_unpacked(config: BundleConfig) -> None:
    texts = pack(config, "abc", "int8")
    assert set(texts) == set(KEYS)
    assert unpack({**texts, "somebody.else": "1"}, FILE) == (config, "abc", "int8")


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({CONFIG: None}, ConfigError, "not written by `transunet export`"),
        ({FORMAT: "2"}, ConfigError, "Install a newer transunet"),
        ({CONFIG: "{"}, DataError, "is damaged"),
        ({CONFIG: "[]"}, ConfigError, "expected an object"),
        ({FINGERPRINT: None}, DataError, "are damaged"),
        ({"transunet.precision": "fp7"}, DataError, "are damaged"),
    ],
)
def test_other_texts_are_refused(
    config: BundleConfig, change: dict[str, str | None], error: type[Exception], says: str
) -> None:
    texts = {**pack(config, "abc"), **change}
    with pytest.raises(error, match=says) as caught:
        unpack({key: text for key, text in texts.items() if text is not None}, FILE)
    assert str(FILE) in str(caught.value)


def test_a_newer_configuration_names_the_file(config: BundleConfig) -> None:
    texts = pack(config, "abc")
    texts[CONFIG] = json.dumps(json.loads(texts[CONFIG]) | {"colour": "red"})
    with pytest.raises(ConfigError, match=r"model\.onnx: .*unknown setting 'colour'"):
        unpack(texts, FILE)
