"""What the worker process does: loads every bundle once, predicts, shows attention.

It talks over one pipe. Between two batches of a prediction it looks whether it was asked something
in between: to stop, or for the attention at a voxel, which does not wait for the job to end.
"""

import logging
import time
import traceback
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from transunet.attention.view import AttentionView
from transunet.backends.pytorch import model_of
from transunet.batch.failures import in_words
from transunet.batch.outputs import write_labels
from transunet.bundle.io import from_pretrained
from transunet.data.volume import Volume
from transunet.errors import TransUNetError
from transunet.files import atomic_path
from transunet.inference.predictor import Predictor
from transunet.inference.structure_volumes import measure_structures
from transunet.serve.api.error_responses import ApiError, told
from transunet.serve.bundles import Served
from transunet.serve.bundles import colour as colour_of
from transunet.serve.jobs.child_processes import settle_in
from transunet.serve.jobs.messages import LABELS, OVERLAY, Cancelled, Look, Prediction
from transunet.serve.uploads.inspection import UPLOAD, read_kept, write_view
from transunet.serve.uploads.quota import is_full, no_room


def run_worker(
    pipe: Connection, bundles: Mapping[str, Served], settings: Mapping[str, Any]
) -> None:
    """Load the bundles, say so, and answer until the pipe closes."""
    settle_in()
    try:
        models = _loaded(pipe, bundles, settings)
    except TransUNetError as error:
        pipe.send(("broken", "", error))
        return
    except Exception as error:
        pipe.send(("broken", "", _in_words(error)))
        return
    pipe.send(("ready", "", None))
    try:
        Worker(pipe, models).work()
    except (EOFError, OSError):
        return  # the server is gone


def _loaded(
    pipe: Connection, bundles: Mapping[str, Served], settings: Mapping[str, Any]
) -> dict[str, "Models"]:
    """Load the bundles, and say how far it is: converting a network takes a minute."""
    models = {}
    with _noting(pipe):
        for number, (id_, served) in enumerate(bundles.items(), 1):
            start, of = time.monotonic(), f"{number} of {len(bundles)}"
            pipe.send(("loading", of, None))
            pipe.send(("note", f"Loading {served.name} ({of}) ...", None))
            models[id_] = Models(served, settings)
            base, seconds = models[id_].base, time.monotonic() - start
            told = f"{base.engine} in {base.precision} on {base.device}"
            pipe.send(("note", f"Loaded {served.name} in {seconds:.0f} s: {told}.", None))
    return models


@contextmanager
def _noting(pipe: Connection) -> Iterator[None]:
    """Send what the library notes by the way, such as that it converts a network."""
    logger, handler = logging.getLogger("transunet"), logging.Handler()
    handler.emit = lambda record: pipe.send(("note", record.getMessage(), None))  # type: ignore[method-assign]
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


class Models:
    """One bundle's network, shared by all that is done with it."""

    def __init__(self, served: Served, settings: Mapping[str, Any]) -> None:
        self.served = served
        given = {name: value for name, value in settings.items() if value is not None}
        self.base = Predictor.from_pretrained(served.source, **given)
        if "batch_size" not in given and self.base.device == "cpu":
            # Several at once are hardly faster there; one by one, the page can follow, and who
            # cancels or asks for attention waits for one slice only.
            self.base = self.base.replace(batch_size=1)
        self._view: AttentionView | None = None

    def predictor(self, settings: Mapping[str, Any]) -> Predictor:
        """Return a predictor with a job's settings around the network that is loaded."""
        return self.base.replace(**settings)

    @property
    def view(self) -> AttentionView:
        """What shows attention: with PyTorch in fp32 the network that predicts.

        An engine's network gives logits only, so that a second copy is loaded beside it when
        attention is first asked for.
        """
        if self._view is None:
            model = model_of(self.base.network) or from_pretrained(self.served.source)[0]
            self._view = AttentionView(model, self.base.preprocessing, self.base.device)
        return self._view


class Worker:
    """Answers what comes through the pipe."""

    def __init__(self, pipe: Connection, models: Mapping[str, Models]) -> None:
        self._pipe, self._models = pipe, models
        self._waiting: deque[Prediction] = deque()
        self._running: str | None = None
        self._last: tuple[str, Volume] | None = None  # clicks come in rows at one image

    def work(self) -> None:
        """Answer until the pipe closes.

        Raises:
            EOFError, OSError: when it does.
        """
        while True:
            if self._waiting:
                self._answer(self._waiting.popleft())
            else:
                self._take(self._pipe.recv())

    def _take(self, message: "Prediction | Look | str") -> None:
        if isinstance(message, Prediction):
            self._waiting.append(message)
        elif isinstance(message, Look):
            self._answer(message)
        elif message == self._running:
            raise Cancelled

    def _answer(self, message: "Prediction | Look") -> None:
        try:
            if isinstance(message, Prediction):
                self._pipe.send(("done", message.id, self._predict(message)))
            else:
                self._look(message)
                self._pipe.send(("done", message.id, None))
        except Cancelled:
            self._pipe.send(("cancelled", message.id, None))
        except Exception as error:  # whatever it was, the next job is not to pay for it
            fault = _in_words(error, message.image_folder / UPLOAD)
            self._pipe.send(("failed", message.id, fault))

    def _predict(self, job: Prediction) -> dict[str, Any]:
        self._running = job.id
        try:
            models = self._models.get(job.bundle)
            if models is None:  # queued by an earlier server
                message = f"The bundle {job.bundle} is not served any more."
                raise ApiError("not_found", message, "Start the server with it, or choose another.")
            image = self._image(job)
            predictor = models.predictor(job.settings)
            labels = predictor(
                image,
                lambda done, total: self._between(job.id, done, total),
                warn=lambda _: None,  # the job has been told when it was queued
            )
        finally:
            self._running = None
        job.folder.mkdir(parents=True, exist_ok=True)
        write_labels(labels, job.folder / LABELS, predictor.labels)
        with atomic_path(job.folder / OVERLAY) as path:
            write_view(labels.array, np.array(job.facts["affine"]), path)
        return {
            "statistics": _statistics(labels, image, predictor),
            "slices": _count(image, models),
        }

    def _between(self, id_: str, done: int, total: int) -> None:
        self._pipe.send(("progress", id_, (done, total)))
        while self._pipe.poll():
            self._take(self._pipe.recv())

    def _look(self, look: Look) -> None:
        image = self._image(look)
        seen = self._models[look.bundle].view.slice_at(image, look.voxel, look.layer, look.head)
        # From the image's millimetres to where the page shows them (the same but for pictures).
        affine = np.array(look.facts["affine"]) @ np.linalg.inv(image.affine) @ seen.affine
        with atomic_path(look.path) as path:
            write_view(seen.array, affine, path)

    def _image(self, of: "Prediction | Look") -> Volume:
        if self._last is None or self._last[0] != of.image:
            self._last = None  # two large images are not held at once
            self._last = of.image, read_kept(of.image_folder, of.facts)
        return self._last[1]


def _statistics(labels: Volume, image: Volume, predictor: Predictor) -> list[dict[str, Any]]:
    axis = predictor.preprocessing.stored_axis(image)
    found = measure_structures(labels, image, predictor.labels, axis)
    return [
        {"index": index, "name": name, "color": colour_of(index), **found[name]}
        for index, name in sorted(predictor.labels.items())
        if index
    ]


def _count(image: Volume, models: Models) -> int:
    return models.base.preprocessing.slice_count(image)


def _in_words(error: BaseException, folder: Path = Path("upload")) -> TransUNetError:
    if is_full(error):
        return no_room()
    try:
        return told(in_words(error, folder), folder, "unusable")
    except Exception:  # a mistake of ours: the log gets all of it, the client none
        logging.getLogger(__name__).error("%s", traceback.format_exc())
        return ApiError("internal", "The server made a mistake; its log says more.")
