"""What the API takes and answers, with examples: the OpenAPI description is made from this."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from transunet.serve.jobs.database import Status
from transunet.serve.jobs.result_files import ResultFormat


def _whole(value: Any) -> Any:
    # To JSON, 3.0 is as whole as 3.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _moment(seconds: Any) -> Any:
    if not isinstance(seconds, float):
        return seconds
    return (
        datetime.fromtimestamp(seconds, UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )


Moment = Annotated[str, BeforeValidator(_moment)]
"""ISO 8601 in UTC, from seconds since 1970."""
Index = Annotated[int, Field(ge=0, le=2**31 - 1), BeforeValidator(_whole)]
_ID = "8c3f1c9a5b7e4d0f9a6b2c1d3e4f5a6b"


class Strict(BaseModel):
    """What is sent may hold nothing that is not known."""

    model_config = ConfigDict(extra="forbid", strict=True)


class SeriesChoice(BaseModel):
    """One of several DICOM series that were sent together."""

    number: int = Field(examples=[1], description="In the list, from 1.")
    uid: str = Field(description="SeriesInstanceUID.")
    modality: str = Field(examples=["CT"])
    description: str = Field(examples=["Abdomen 2.0"])
    slices: int = Field(examples=[78])
    part: str = Field(description="What tells it from others of its UID; empty without such.")


class Correction(BaseModel):
    """Which correction of a label map there is already, by whom and since when."""

    id: str = Field(examples=[_ID])
    author: str | None = Field(examples=["Dr. Ada Example"])
    created: Moment


class ErrorDetail(BaseModel):
    """What went wrong."""

    code: str = Field(examples=["queue_full"])
    message: str = Field(examples=["32 jobs are waiting, which is all that the server takes."])
    remedy: str | None = Field(default=None, examples=["Try again in a minute."])
    series: list[SeriesChoice] | None = Field(
        default=None, description="With `several_series` and `no_such_series`: what to choose from."
    )
    correction: Correction | None = Field(
        default=None, description="With `superseded`: the correction that came first."
    )


class Error(BaseModel):
    """Every answer of 400 and above."""

    error: ErrorDetail


class Label(BaseModel):
    """A structure that a bundle segments."""

    index: int = Field(examples=[1])
    name: str = Field(examples=["liver"])
    color: str = Field(examples=["#4fc3f7"])
    members: list[int] = Field(
        examples=[[1]], description="Label values that make it up, itself or a region's."
    )


class Bundle(BaseModel):
    """A model that is served."""

    id: str = Field(examples=["liver-best"])
    name: str = Field(examples=["liver (best)"])
    labels: list[Label]
    overlapping: bool = Field(
        description="Whether these are regions, of which several may be true of a voxel."
    )
    channels: list[str] = Field(examples=[["CT"]])
    architecture: str = Field(examples=["R50-ViT-B_16"])
    image_size: list[int] = Field(
        examples=[[224, 224]], description="Sides of the slices or patches that the network sees."
    )
    layers: int = Field(
        examples=[12],
        description="Transformer layers whose attention is shown, by 0..; 0 where there are none.",
    )
    heads: int = Field(examples=[12], description="Attention heads of each layer.")
    clicks: bool = Field(description="Whether it was trained to follow a person's clicks.")


class Suitability(BaseModel):
    """Whether an image is of the kind that a bundle was trained on."""

    bundle: str = Field(examples=["liver-best"])
    refusal: str | None = Field(
        description="Why a job needs `force`; null where the two do not contradict each other.",
        examples=["it is CT by its DICOM header, but the model was trained on MRI"],
    )
    warnings: list[str] = Field(description="What is doubtful.")
    doubtful_values: bool = Field(
        description="Whether that is its intensities, and not voxels and field of view alone."
    )


class DicomHeader(BaseModel):
    """Whom and what a DICOM series shows; empty what its header does not tell."""

    patient_name: str = Field(examples=["DOE, JANE"])
    patient_id: str
    study_date: str = Field(examples=["2026-11-22"])
    study: str = Field(examples=["CT abdomen"])
    series: str = Field(examples=["portal venous 2.0"])
    modality: str = Field(examples=["CT"])


class Image(BaseModel):
    """An image that was uploaded."""

    id: str = Field(examples=[_ID])
    name: str = Field(examples=["patient.nii.gz"])
    shape: list[int] = Field(examples=[[512, 512, 90]], description="Voxels along X, Y, Z.")
    channels: int = Field(examples=[1])
    spacing_mm: list[float] = Field(examples=[[0.8, 0.8, 2.5]])
    orientation: str = Field(examples=["LPS"], description="Where each array axis points.")
    affine: list[list[float]] = Field(
        description="4 x 4, voxel indices to the millimetres of volume.nii.gz."
    )
    kind: Literal["volume", "picture"]
    units: list[Literal["HU"] | None] = Field(
        description="Of each channel: HU where it is a CT, by its DICOM header or its values."
    )
    header: DicomHeader | None = Field(default=None, description="Of a DICOM series.")
    result_formats: list[ResultFormat]
    warnings: list[str]
    obstacle: str | None = Field(
        description="Why it can be looked at but not segmented; null where it can be."
    )
    from_pacs: bool = Field(description="Whether results can be stored in the PACS it came from.")
    suitability: list[Suitability] = Field(description="For each bundle that takes its channels.")
    created: Moment = Field(examples=["2026-11-22T20:00:00Z"])
    expires: Moment = Field(examples=["2026-11-23T20:00:00Z"])
    kept: bool = Field(description="Whether a correction keeps it beyond that, until deleted.")


class JobSettings(BaseModel):
    """How an image is to be segmented."""

    procedure: Literal["native", "paper"] = "native"
    mirror: bool = Field(
        default=False,
        description="Average over mirror images, along the axes that training mirrored.",
    )
    largest_component: list[str] = Field(
        default=[],
        max_length=1000,
        description="Names of structures of which only the largest piece is kept, or ['all'].",
    )
    window: bool = Field(default=False, description="Slide a window instead of resizing slices.")
    force: bool = Field(
        default=False,
        description="Segment an image of another kind than training saw, or mirror images, too.",
    )


class JobRequest(Strict, JobSettings):
    """What is to be segmented, and how."""

    image: str = Field(examples=[_ID])
    bundle: str = Field(examples=["liver-best"])


class BatchRequest(Strict):
    """Jobs that are sent together."""

    jobs: list[JobRequest] = Field(min_length=1)


class Statistics(BaseModel):
    """What one structure of a result measures."""

    index: int
    name: str
    color: str
    volume_ml: float
    voxels: int
    slices: int = Field(description="Slices with at least one voxel of it.")
    mean_intensity: list[float] | None = Field(description="Of each channel; null where empty.")
    look: bool | None = Field(
        default=None,
        description="Whether a person should look at it, because it is likely to be bad; null "
        "where the bundle knows nothing of its own results.",
    )
    reason: str | None = Field(
        default=None,
        description="Why, or why it may be bad all the same, in words; null where nothing says so.",
        examples=["not found, though every held-out case had it"],
    )
    expected_dice: float | None = Field(
        default=None, examples=[0.93], description="0 to 1; null where it cannot be known."
    )
    expected_within: float | None = Field(
        default=None,
        examples=[0.04],
        description="Nine of ten held-out predictions lay within this much of the expected Dice.",
    )
    volume_interval_ml: list[float] | None = Field(
        default=None,
        examples=[[1390, 1480]],
        description="Between which the true volume lies in nine of ten cases; null where it cannot "
        "be known.",
    )


class Job(BaseModel):
    """A segmentation."""

    id: str = Field(examples=[_ID])
    image: str
    bundle: str
    batch: str | None = Field(description="What it was sent with; null where it came alone.")
    settings: dict[str, Any]
    status: Status
    slices_done: int = Field(description="Of a bundle that takes volumes, its patches.")
    slices_total: int | None = Field(description="As `slices_done`.")
    position: int | None = Field(description="Place in the queue, 1 for the next; else null.")
    attempts: int = Field(description="How often it was begun.")
    error: ErrorDetail | None
    statistics: list[Statistics] | None
    warnings: list[str] = Field(
        description="What makes the image doubtful for the bundle; when it is done, also how it is "
        "unlike the images of training."
    )
    uncertainty: bool = Field(description="Whether there is a map of where the network is unsure.")
    created: Moment
    started: Moment | None
    finished: Moment | None
    expires: Moment | None


class Batch(BaseModel):
    """Jobs that were sent together."""

    id: str = Field(examples=[_ID])
    over: bool = Field(description="Whether each is done, failed or cancelled.")
    counts: dict[Status, int] = Field(examples=[{"done": 3, "running": 1}])
    jobs: list[Job] = Field(description="In the order they were sent.")


class AttentionRequest(Strict):
    """Where the network looks from a voxel."""

    bundle: str = Field(examples=["liver-best"])
    voxel: Annotated[list[Index], Field(min_length=3, max_length=3, examples=[[256, 200, 40]])]
    layer: Index | Literal["rollout"] = "rollout"
    head: Index | Literal["mean"] = "mean"


class JobAttentionRequest(Strict):
    """As `AttentionRequest`, of a job's image and bundle."""

    voxel: Annotated[list[Index], Field(min_length=3, max_length=3, examples=[[256, 200, 40]])]
    layer: Index | Literal["rollout"] = "rollout"
    head: Index | Literal["mean"] = "mean"
    bundle: str | None = Field(default=None, description="The job's own if it is not given.")


class LabelClick(Strict):
    """What a person says of one voxel."""

    voxel: Annotated[list[Index], Field(min_length=3, max_length=3, examples=[[256, 200, 40]])]
    structure: Index | str | None = Field(
        default=None, examples=["liver"], description="By number or name; null where none is."
    )


class LabelBox(Strict):
    """A box of a label map, lying as `volume.nii.gz` does."""

    start: Annotated[list[Index], Field(min_length=3, max_length=3, examples=[[200, 180, 40]])]
    shape: Annotated[list[Index], Field(min_length=3, max_length=3, examples=[[64, 48, 1]])]
    data: str = Field(
        description="Its labels, unsigned integers of 16 bits, little end first, the first axis "
        "running fastest; zipped by gzip, as base64."
    )


class ClicksRequest(Strict):
    """Clicks that correct a label map."""

    bundle: str = Field(examples=["liver-best"])
    clicks: list[LabelClick] = Field(
        min_length=1, max_length=1000, description="All that were given so far, in their order."
    )
    applied: Index = Field(
        default=0, description="How many of them the label map shows already; only others act."
    )
    parent: str | None = Field(
        default=None, description="The label map: a job's id or its own; null for an empty one."
    )
    edited: LabelBox | None = Field(
        default=None, description="A part of the label map that is otherwise than the parent's."
    )


class Score(BaseModel):
    """How one structure agrees with the reference."""

    index: int
    name: str
    dice: float | None = Field(description="0 to 1; null where empty in both.")
    hd95_mm: float | None
    volume_ml: float
    reference_volume_ml: float


class Means(BaseModel):
    """Over the structures that count."""

    dice: float | None
    hd95_mm: float | None


class Comparison(BaseModel):
    """How a result agrees with a reference."""

    structures: list[Score]
    mean: Means
    warnings: list[str] = Field(description="How the reference was read, if not as it is.")


class MeasuredStructure(BaseModel):
    """What one structure of a label map measures."""

    index: int
    name: str
    color: str
    members: list[int] = Field(description="Label values that make it up, itself or a region's.")
    voxels: int
    volume_ml: float


class LabelMap(BaseModel):
    """A label map of an image that no job made."""

    id: str = Field(examples=[_ID])
    image: str
    kind: Literal["given", "correction"]
    name: str = Field(examples=["correction 1"])
    parent: str | None = Field(
        description="The job or label map that was corrected; null for a file that was sent, or "
        "what was drawn from nothing."
    )
    author: str | None = Field(examples=["Dr. Ada Example"])
    created: Moment
    changed_voxels: int | None = Field(description="Against the parent, of a correction.")
    structures: list[MeasuredStructure]


class ServerLimits(BaseModel):
    """What the server takes."""

    queue: int
    keep_hours: float
    upload_bytes: int
    quota_bytes: int
    voxels: int
    files: int


class Health(BaseModel):
    """Whether the server lives, and could begin a job now."""

    status: Literal["ok"] = "ok"
    ready: bool = Field(description="The models are loaded.")
    loading: str | None = Field(description="Which model is, as '1 of 2'; null when all are.")
    queue: int = Field(description="Jobs that wait.")
    running: bool
    workers: int = Field(description="Processes that compute, each a job at a time.")
    version: str
    pacs: bool = Field(description="Whether series can be fetched from a PACS.")
    sample: bool = Field(description="Whether there is a sample image to try.")
    dataset: bool = Field(description="Whether label maps can be added to a data set.")
    worklist: bool = Field(description="Whether there is a list of images to be labelled.")
    limits: ServerLimits
