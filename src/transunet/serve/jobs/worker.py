"""The process that computes: loads each bundle once, predicts, shows attention.

Between two batches of a prediction it looks whether it was asked something in between: to stop, or
for the attention at a voxel, which does not wait for the job to end.
"""

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from transunet.attention.view import AttentionView
from transunet.backends.pytorch import model_of
from transunet.backends.threads import threads
from transunet.batch.outputs import write_labels
from transunet.bundle.io import from_pretrained
from transunet.colours import colour_of
from transunet.data.clicks import Click
from transunet.data.formats import read_labels
from transunet.data.volume import Volume
from transunet.device import used_memory
from transunet.errors import TransUNetError, as_user_error
from transunet.files import atomic_path
from transunet.inference.postprocessing import measure_structures
from transunet.inference.predictor import Predictor
from transunet.inference.slice_inference import VolumeSlices
from transunet.logs import forwarded_logs
from transunet.serve.api_errors import ApiError, api_error, is_full
from transunet.serve.bundles import ServedBundle
from transunet.serve.child_process import START, Cancelled
from transunet.serve.jobs.label_box import packed_change, paste
from transunet.serve.jobs.messages import (
    LABELS,
    OVERLAY,
    UNCERTAINTY,
    AttentionTask,
    ClicksTask,
    PredictionTask,
)
from transunet.serve.uploads.inspection import UPLOAD, read_kept, write_view
from transunet.trust.assessment import predict_and_assess


def run_worker(
    pipe: Connection,
    bundles: Mapping[str, ServedBundle],
    settings: Mapping[str, Any],
    workers: int = 1,
) -> None:
    """Load the bundles, say so, and answer until the pipe closes (`ChildProcess`'s target).

    Args:
        pipe: to the server.
        bundles: id -> bundle.
        settings: of every bundle's predictor.
        workers: processes like this one, which share the cores.

    Raises:
        EOFError, OSError: when the pipe closes.
    """
    if workers > 1 and "OMP_NUM_THREADS" not in os.environ:
        share = max(1, (threads() or os.cpu_count() or 1) // workers)
        torch.set_num_threads(share)
        os.environ["OMP_NUM_THREADS"] = str(share)  # which other engines ask for
    models = {}
    count = ""

    def note(text: str) -> None:
        pipe.send(("progress", START, (text, count)))

    try:
        with forwarded_logs(lambda record: note(record.getMessage())):
            for number, (id_, served) in enumerate(bundles.items(), 1):
                start = time.monotonic()
                count = f"{number} of {len(bundles)}"  # no name, for it is told to anybody
                note(f"Loading {served.name} ({count}) ...")
                models[id_] = LoadedBundle(served, settings)
                base, seconds = models[id_].base, time.monotonic() - start
                note(f"Loaded {served.name} in {seconds:.0f} s: {base.arithmetic}.")
        if workers > 1:
            note(f"It takes {used_memory() / 2**30:.1f} GB of main memory, and more at work.")
    except Exception as error:
        known = isinstance(error, TransUNetError)
        pipe.send(("failed", START, error if known else _api_error(error, Path("upload"))))
        return
    pipe.send(("done", START, None))
    worker = Worker(pipe, models)
    while True:
        worker.answer_next()


class LoadedBundle:
    """One bundle's network, shared by all that is done with it."""

    def __init__(self, served: ServedBundle, settings: Mapping[str, Any]) -> None:
        self.served = served
        given = {name: value for name, value in settings.items() if value is not None}
        self.base = Predictor.from_pretrained(served.source, **given)
        """A job's predictor is this one with the job's settings."""
        if "batch_size" not in given and self.base.device == "cpu":
            # Several at once are hardly faster there; one by one, the page can follow, and who
            # cancels or asks for attention waits for one slice only.
            self.base = self.base.replace(batch_size=1)
        self._view: AttentionView | None = None

    @cached_property
    def corrector(self) -> Predictor:
        """What follows clicks, also at an image of another kind: its labels are there already."""
        return self.base.replace(force=True)

    @property
    def view(self) -> AttentionView:
        """What shows attention: with PyTorch in fp32 the network that predicts.

        An engine's network gives logits only, so that a second copy is loaded beside it when
        attention is first asked for.
        """
        if self._view is None:
            model = model_of(self.base.network) or from_pretrained(self.served.source)[0]
            sampling = self.served.config.sampling
            self._view = AttentionView(
                model, self.base.preprocessing, self.base.device, sampling=sampling
            )
        return self._view


class Worker:
    """Answers what comes through the pipe."""

    def __init__(self, pipe: Connection, models: Mapping[str, LoadedBundle]) -> None:
        self._pipe, self._models = pipe, models
        self._running: str | None = None
        self._last_image: tuple[str, Volume] | None = None  # clicks come in rows at one image
        self._last_slices: tuple[tuple[str, str], VolumeSlices] | None = None
        self._last_labels: tuple[Path, NDArray[Any]] | None = None

    def answer_next(self) -> None:
        """Wait for a task and answer it; one that is None stops the prediction of that id.

        Raises:
            Cancelled: to that prediction.
            EOFError, OSError: when the pipe closes.
        """
        id_, task = self._pipe.recv()
        if task is None:
            if id_ == self._running:
                raise Cancelled
            return
        answer: Any = None
        try:
            if isinstance(task, PredictionTask):
                answer = self._predict(id_, task)
            elif isinstance(task, ClicksTask):
                answer = self._correct(task)
            else:
                self._show_attention(task)
        except Cancelled as cancelled:
            self._pipe.send(("failed", id_, cancelled))
        except Exception as error:  # whatever it was, the next job is not to pay for it
            fault = _api_error(error, task.image_folder / UPLOAD)
            self._pipe.send(("failed", id_, fault))
        else:
            self._pipe.send(("done", id_, answer))

    def _predict(self, id_: str, job: PredictionTask) -> dict[str, Any]:
        """Write the label maps; return the columns of the job's record that tell of them."""
        models = self._models.get(job.bundle)
        if models is None:  # queued by an earlier server
            message = f"The model {job.bundle} is not served any more."
            raise ApiError("not_found", message, "Start the server with it, or choose another.")

        samples = 0

        def on_progress(done: int, total: int) -> None:
            nonlocal samples
            samples = total
            self._pipe.send(("progress", id_, (done, total)))
            while self._pipe.poll():
                self.answer_next()

        predictor = models.base.replace(**job.settings)
        calibrated = predictor.fitted is not None and predictor.fitted.calibration is not None
        job.folder.mkdir(parents=True, exist_ok=True)
        entropy = job.folder / "entropy.npy" if calibrated else None
        self._running = id_
        try:
            image = self._read(job)
            # Warnings were told when the job was queued.
            labels, assessment = predict_and_assess(
                predictor, image, on_progress, warn=lambda _: None, uncertainty=entropy
            )
        finally:
            self._running = None
        write_labels(labels, job.folder / LABELS, predictor.labels)
        views = {OVERLAY: labels.array}
        if entropy is not None:
            shares = np.load(entropy)
            entropy.unlink()
            percent = np.rint(np.multiply(shares, 100, out=shares), out=shares)
            views[UNCERTAINTY] = percent.astype(np.uint8)
        for name, voxels in views.items():
            with atomic_path(job.folder / name) as path:
                write_view(voxels, np.array(job.image.metadata["affine"]), path)
        settings = predictor.preprocessing
        axis = settings.plane_axis(image)
        measured = assessment.added_to(
            measure_structures(labels, image, predictor.labels, axis, predictor.regions)
        )
        statistics = [
            {"index": index, "name": name, "color": colour_of(index - 1), **measured[name]}
            for index, name in sorted(predictor.structures.items())
        ]
        warnings = [*job.warnings, *assessment.unlike]
        return {"statistics": statistics, "slices": samples, "warnings": warnings}

    def _show_attention(self, task: AttentionTask) -> None:
        image = self._read(task)
        view = self._models[task.bundle].view
        attention = view.slice_at(image, task.voxel, task.layer, task.head)
        # From the image's millimetres to where the page shows them (the same but for pictures).
        to_page = np.array(task.image.metadata["affine"]) @ np.linalg.inv(image.affine)
        with atomic_path(task.path) as path:
            write_view(attention.array, to_page @ attention.affine, path)

    def _correct(self, task: ClicksTask) -> dict[str, Any]:
        """Return the box of labels that clicks change."""
        image, predictor = self._read(task), self._models[task.bundle].corrector
        key = task.image.id, task.bundle
        if self._last_slices is None or self._last_slices[0] != key:
            self._last_slices = key, VolumeSlices(image, predictor.preprocessing)
        labels = np.zeros(image.spatial_shape, np.uint8)
        if task.parent is not None:
            if self._last_labels is None or self._last_labels[0] != task.parent:
                self._last_labels = task.parent, read_labels(task.parent).array[0]
            labels = self._last_labels[1]
        if task.edited is not None:
            labels = paste(task.edited, labels)
        corrected = predictor.correct(
            image,
            [Click(**click) for click in task.clicks],
            image.with_array(labels[None]),
            applied=task.applied,
            slices=self._last_slices[1],
            warn=lambda _: None,
        )
        return packed_change(corrected.array[0], labels)

    def _read(self, task: PredictionTask | AttentionTask | ClicksTask) -> Volume:
        if self._last_image is None or self._last_image[0] != task.image.id:
            # Two large images are not held at once.
            self._last_image = self._last_slices = self._last_labels = None
            image = read_kept(task.image_folder, task.image.metadata)
            self._last_image = task.image.id, image
        return self._last_image[1]


def _api_error(error: Exception, folder: Path) -> ApiError:
    if not is_full(error):
        with suppress(Exception):  # a mistake of ours is raised again, and stays what it is
            error = as_user_error(error, folder)
    return api_error(error, folder, "unusable")
