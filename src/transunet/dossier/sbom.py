"""A software bill of materials in CycloneDX 1.6: packages, weights and data, through its library.

https://cyclonedx.org/docs/1.6/json/
"""

from typing import Any

from transunet.dossier.environment import Installed, installed_closure
from transunet.dossier.facts import Facts, licence_of_data
from transunet.optional import DISTRIBUTION, own_version, require


def sbom(facts: Facts, card: str) -> str:
    """Return the bill of materials of a model as JSON.

    Args:
        facts: of the model card.
        card: where the model card lies, relative to the bill.

    Raises:
        ConfigError: without the packages of the extra `dossier`.
    """
    cyclonedx = require("cyclonedx.model", "dossier")
    components = require("cyclonedx.model.component", "dossier")
    bom = require("cyclonedx.model.bom", "dossier").Bom()
    kinds, model, data = components.ComponentType, facts["model"], facts["data"]

    installed = installed_closure()
    packages = {name: _package(name, each) for name, each in installed.items()}
    weights = [
        components.Component(
            type=kinds.MACHINE_LEARNING_MODEL,
            name=model["name"],
            bom_ref=f"weights:{each['file']}",
            description=f"Weights in {each['file']}, {model['parameters']} parameters",
            version=each["sha256"][:12],
            hashes=[_sha256(each["sha256"])],
            external_references=[
                cyclonedx.ExternalReference(
                    type=cyclonedx.ExternalReferenceType.MODEL_CARD, url=cyclonedx.XsUri(card)
                )
            ],
        )
        for each in model["weights"]
    ]
    beginnings = [
        components.Component(
            type=kinds.MACHINE_LEARNING_MODEL,
            name=str(each["address"]).rpartition("/")[2],
            bom_ref=f"starting-weights:{number}",
            description=f"Weights from which training began: {each['address']}",
            licenses=_licences(each["licence"]),
            hashes=[_sha256(each["sha256"])] if each["sha256"] else [],
        )
        for number, each in enumerate((facts["starting_weights"] or {"files": []})["files"])
    ]
    trained_on = components.Component(
        type=kinds.DATA,
        name=data["name"] or "training data",
        bom_ref="training-data",
        description=data["said"].get("description") or f"{data['cases']} cases",
        licenses=_licences(licence_of_data(facts)),
        # Not of one file, so no hash of the component itself.
        properties=[
            cyclonedx.Property(name=f"transunet:{key}", value=str(data[key]))
            for key in ("cases", "files", "sha256")
            if data.get(key) is not None
        ],
    )
    bom.metadata.component = packages.pop(DISTRIBUTION, None) or components.Component(
        type=kinds.APPLICATION, name=DISTRIBUTION, version=own_version()
    )
    bom.components.update([*packages.values(), *weights, *beginnings, trained_on])
    for name, each in installed.items():
        component = packages.get(name, bom.metadata.component)
        bom.register_dependency(component, [packages[n] for n in sorted(each.needs)])
    for each in weights:
        bom.register_dependency(each, [bom.metadata.component, trained_on, *beginnings])
    output = require("cyclonedx.output.json", "dossier").JsonV1Dot6(bom)
    return str(output.output_as_string(indent=2)) + "\n"


def _package(name: str, installed: Installed) -> Any:
    components = require("cyclonedx.model.component", "dossier")
    kinds = components.ComponentType
    url = require("packageurl", "dossier").PackageURL("pypi", name=name, version=installed.version)
    return components.Component(
        type=kinds.APPLICATION if name == DISTRIBUTION else kinds.LIBRARY,
        name=name,
        version=installed.version,
        bom_ref=str(url),
        purl=url,
        description=installed.summary,
        licenses=_licences(installed.licence),
    )


def _licences(text: str | None) -> list[Any]:
    if not text:
        return []
    factories = require("cyclonedx.contrib.license.factories", "dossier")
    return [factories.LicenseFactory().make_from_string(text)]


def _sha256(digest: str) -> Any:
    cyclonedx = require("cyclonedx.model", "dossier")
    return cyclonedx.HashType(alg=cyclonedx.HashAlgorithm.SHA_256, content=digest)
