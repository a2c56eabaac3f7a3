"""What every route needs: the service behind it, and the faults that it documents."""

from typing import Annotated, Any

from fastapi import Depends, Path, Request

from transunet.serve.api.schemas import Error
from transunet.serve.api_errors import STATUS
from transunet.serve.service import Service

_EVERYWHERE = (
    *("malformed", "unauthorized", "wrong_host", "too_large", "invalid_request", "internal"),
    "storage_full",
)
"""A token that is missing or wrong and a foreign host may meet every route; so may a disk that is
full, since even asking writes."""


def _service(request: Request) -> Service:
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


CurrentService = Annotated[Service, Depends(_service)]
Id = Annotated[str, Path(description="As it was answered when it was made.")]


def faults(*codes: str, json: bool = True) -> dict[int | str, dict[str, Any]]:
    """Return the answers of 400 and above that a route documents, by the codes it may give.

    Args:
        codes: beside those of every route.
        json: whether the route's other answers are JSON.
    """
    schema = {"$ref": f"#/components/schemas/{Error.__name__}"}
    content = {"content": {"application/json": {"schema": schema}}}
    answers: dict[int | str, dict[str, Any]] = {}
    for code in (*_EVERYWHERE, *codes):
        empty = {**({"model": Error} if json else content), "description": ""}
        answer = answers.setdefault(STATUS[code], empty)
        answer["description"] = ", ".join(filter(None, (answer["description"], f"`{code}`")))
    return answers


GZIP: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"application/gzip": {"schema": {"type": "string", "format": "binary"}}},
        "description": "A NIfTI file.",
    }
}


def multipart(name: str, schema: dict[str, Any], **more: dict[str, Any]) -> dict[str, Any]:
    """Return what documents a body that the route reads itself: a form with the part `name`.

    Args:
        name: of the part that must be there.
        schema: its JSON schema.
        more: schemas of parts that may be there.
    """
    form = {"type": "object", "required": [name], "properties": {name: schema, **more}}
    content = {"multipart/form-data": {"schema": form}}
    return {"requestBody": {"required": True, "content": content}}
