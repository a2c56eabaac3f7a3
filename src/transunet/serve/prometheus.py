"""Counts for Prometheus, in its text format; nothing is sent anywhere."""

import threading
from collections.abc import Mapping

HELP: Mapping[str, tuple[str, str]] = {
    "transunet_requests_total": ("counter", "Requests, by method and status."),
    "transunet_uploads_total": ("counter", "Images taken in."),
    "transunet_upload_bytes_total": ("counter", "Bytes of images taken in."),
    "transunet_jobs_submitted_total": ("counter", "Jobs that were queued, by bundle."),
    "transunet_jobs_total": ("counter", "Jobs that ended, by bundle and status."),
    "transunet_job_wait_seconds": ("histogram", "How long jobs waited, by bundle."),
    "transunet_job_seconds": ("histogram", "How long jobs ran that were done, by bundle."),
    "transunet_slices_total": ("counter", "Slices or patches that were segmented, by bundle."),
    "transunet_worker_restarts_total": ("counter", "Times that a worker process was replaced."),
    "transunet_jobs_waiting": ("gauge", "Jobs in the queue."),
    "transunet_jobs_running": ("gauge", "Jobs that workers are at."),
    "transunet_worker_ready": ("gauge", "Workers whose models are loaded."),
    "transunet_images": ("gauge", "Images that are kept."),
    "transunet_storage_bytes": ("gauge", "Bytes that images and results take."),
    "transunet_storage_quota_bytes": ("gauge", "Bytes that they may take."),
}
"""Name -> kind and meaning."""
BUCKETS = (0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600, 1800, float("inf"))
"""Seconds up to which a histogram counts; from a slice of a small network to a full queue."""


class ServerMetrics:
    """Counters of one server, from 0 at its start."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[tuple[str, str], float] = {}

    def count(self, name: str, by: float = 1, **labels: object) -> None:
        """Add to a counter."""
        text = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
        key = name, f"{{{text}}}" if text else ""
        with self._lock:
            self._values[key] = self._values.get(key, 0) + by

    def observe(self, name: str, seconds: float, **labels: object) -> None:
        """Add to a histogram."""
        for bucket in BUCKETS:
            edge = f"{bucket:g}".replace("inf", "+Inf")
            self.count(f"{name}_bucket", seconds <= bucket, **labels, le=edge)
        self.count(f"{name}_sum", seconds, **labels)
        self.count(f"{name}_count", 1, **labels)

    def text(self, gauges: Mapping[str, float]) -> str:
        """Return everything, with what is measured now."""
        with self._lock:
            values = {**self._values, **{(name, ""): value for name, value in gauges.items()}}
        lines = []
        for name, (kind, meaning) in HELP.items():
            lines += [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]
            histogram = (f"{name}_bucket", f"{name}_sum", f"{name}_count")
            parts = histogram if kind == "histogram" else (name,)
            samples = {key: value for key, value in values.items() if key[0] in parts}
            if not samples and kind != "histogram":
                samples = {(name, ""): 0.0}
            lines += [f"{part}{labels} {value:.17g}" for (part, labels), value in samples.items()]
        return "\n".join(lines) + "\n"
