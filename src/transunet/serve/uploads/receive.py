"""A request's files into a folder of their own, which is gone again unless all goes well."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from fastapi import Request
from starlette.requests import ClientDisconnect

from transunet.serve.api.error_responses import ApiError
from transunet.serve.image_records import new_id
from transunet.serve.service import Service
from transunet.serve.uploads.inspection import UPLOAD
from transunet.serve.uploads.multipart import Receiver, Upload, receive
from transunet.serve.uploads.quota import remove, telling_of_full_disks

_DRAINED_BYTES = 64 * 2**20
_DRAINED_SECONDS = 10.0


@asynccontextmanager
async def received(request: Request, here: Service) -> AsyncIterator[tuple[str, Path, Upload]]:
    """Yield a new id, the folder `incoming/ID` and what was received into its `upload`.

    The folder is removed in the end, unless it was moved to where it is kept.

    Raises:
        ApiError: for an upload that is too large, malformed, stalled, or does not fit on the disk.
    """
    id_ = new_id()
    folder = here.data / "incoming" / id_
    try:
        with telling_of_full_disks():
            (folder / UPLOAD).mkdir(parents=True)
        yield id_, folder, await _receive(request, here, id_, folder / UPLOAD)
    except ClientDisconnect:
        raise ApiError("malformed", "The client left before the upload ended.") from None
    finally:
        here.space.settled(id_)
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(remove, folder)


def keep(folder: Path, target: Path) -> None:
    """Move a folder that was received to where it is kept."""
    shutil.move(folder, target)


async def _receive(request: Request, here: Service, id_: str, folder: Path) -> Upload:
    most, received_bytes = here.limits.upload_bytes, 0
    declared = request.headers.get("content-length", "")

    def arrived(size: int) -> None:
        nonlocal received_bytes
        received_bytes += size
        if received_bytes > most:
            raise _too_large(most)
        here.space.arrived(id_, size)

    stream = request.stream()
    try:
        if declared.isdigit() and int(declared) > most:
            raise _too_large(most)
        here.space.check()
        kind = request.headers.get("content-type", "")
        receiver = Receiver(kind, folder, here.limits.files, arrived)
        return await receive(stream, receiver)
    except ApiError as error:
        if error.code in ("too_large", "storage_full") and "expect" not in request.headers:
            await _drain(stream)
        raise


async def _drain(stream: AsyncIterator[bytes]) -> None:
    """Take a little more of a refused body: a client that still sends does not see the answer."""
    taken = 0
    with anyio.move_on_after(_DRAINED_SECONDS):
        async for data in stream:
            taken += len(data)
            if taken > _DRAINED_BYTES:
                return


def _too_large(most: int) -> ApiError:
    message = f"The upload is larger than {most / 2**20:g} MB, which is all that is taken."
    return ApiError("too_large", message, "Send a smaller file, or start with --max-upload.")
