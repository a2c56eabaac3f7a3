"""What every route needs: the service behind it, and the faults that it documents."""

from collections.abc import Iterable
from typing import Annotated, Any

from fastapi import Depends, Path, Request

from transunet.serve.api.error_responses import STATUS
from transunet.serve.api.schemas import Error
from transunet.serve.service import Service


def _service(request: Request) -> Service:
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


_EVERYWHERE = (
    "malformed",
    "unauthorized",
    "wrong_host",
    "too_large",
    "invalid_request",
    "internal",
    "storage_full",
)

Here = Annotated[Service, Depends(_service)]
Id = Annotated[str, Path(description="As it was answered when it was made.")]


def faults(*codes: str) -> dict[int | str, dict[str, Any]]:
    """Return the answers of 400 and above that a route documents, by the codes it may give.

    A token that is missing or wrong and a foreign host or origin may meet every route; so may a
    disk that is full, since even asking writes.
    """
    return _faults(codes, {"model": Error})


def file_faults(*codes: str) -> dict[int | str, dict[str, Any]]:
    """As `faults`, of a route whose other answers are no JSON."""
    schema = {"$ref": f"#/components/schemas/{Error.__name__}"}
    return _faults(codes, {"content": {"application/json": {"schema": schema}}})


def _faults(codes: Iterable[str], answer: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    found: dict[int | str, dict[str, Any]] = {}
    for code in (*_EVERYWHERE, *codes):
        told = found.setdefault(STATUS[code], {**answer, "description": ""})
        told["description"] = ", ".join(filter(None, (told["description"], f"`{code}`")))
    return found


GZIP: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"application/gzip": {"schema": {"type": "string", "format": "binary"}}},
        "description": "A NIfTI file.",
    }
}


def multipart(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Return what documents a body that the route reads itself: a form whose part is `name`."""
    form = {"type": "object", "required": [name], "properties": {name: schema}}
    content = {"multipart/form-data": {"schema": form}}
    return {"requestBody": {"required": True, "content": content}}
