"""Medical Segmentation Decathlon: `dataset.json` lists the files, 4-D ones hold the modalities."""

from pathlib import Path

from transunet.data.cases import DataSet
from transunet.data.layouts import description, lists, masks, paired_folders

SHAPE = "dataset.json with a list 'training', and 'modality', 'labels'; imagesTr, labelsTr"


def recognises(folder: Path) -> bool:
    """Whether `folder` holds a Decathlon description."""
    return "training" in description.keys_of(folder)


def open(folder: Path) -> DataSet:
    """Find the cases that `dataset.json` lists.

    MONAI's data lists name no labels and no modality: then the files tell.

    Raises:
        DataError: when the description is missing or contradicts itself.
    """
    content = description.description_of(folder)
    cases, notes = lists.listed_cases(folder, content)
    if "labels" in content or not cases:
        names = description.section(folder, content, "labels", dict)
        if all(type(value) is int for value in names.values()) and 0 in names.values():
            # The other way round, as nnU-Net has it.
            names = {str(v): name for v, name in description.names_by_value(folder, names).items()}
        if not all(key.isascii() and key.isdigit() for key in names):
            raise description.wrong(
                folder, f"'labels' must map numbers to names, found the keys {', '.join(names)}"
            )
        labels, values = description.classes(
            folder, {int(key): str(name) for key, name in names.items()}
        )
    else:
        meaning = masks.meaning(folder, [case.label for case in cases if case.label])
        labels, values = meaning.labels, meaning.values
        notes += meaning.notes
    intensity_range = None
    if "modality" in content or not cases:
        channels = description.channel_names(folder, content, "modality")
    elif len(cases[0].images) > 1:
        channels = tuple(f"image {index}" for index in range(len(cases[0].images)))
    else:
        channels, intensity_range, notes_on_images = paired_folders.channels_of(folder, cases)
        notes += notes_on_images
    return DataSet(
        name=str(content.get("name") or ""),
        cases=tuple(cases),
        labels=labels,
        channels=channels,
        label_values=values,
        intensity_range=intensity_range,
        split_rule=lists.RULE,
        notes=(*notes, *lists.unlisted_files(folder, cases)),
    )


without = lists.without
