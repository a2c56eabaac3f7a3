"""Configuration is a value: frozen, validated when made, and honest about what was wrong."""

from difflib import get_close_matches
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from transunet.errors import ConfigError

_MOST_TOLD = 3
"""Of what is wrong at once: a file of another kind has dozens."""
_LONGEST_TOLD = 100
"""Characters of what was given."""


class Configuration(BaseModel):
    """Base of every configuration: immutable, no unknown keys, finite; a `ConfigError` if wrong.

    Raises:
        ConfigError: naming each offending field, what was given and what is expected; for an
            unknown key also the nearest known one.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(_explain(type(self), error)) from None

    def replace(self, **changes: Any) -> Self:
        """Return a copy with `changes` applied and everything validated again.

        Of a part that is itself a configuration, a dict changes the settings that it names.
        """
        values = {**self.model_dump(), **changes}
        for name, change in changes.items():
            part = getattr(self, name, None)
            if isinstance(part, Configuration) and isinstance(change, dict):
                values[name] = part.replace(**change)
        return type(self)(**values)

    @classmethod
    def from_json(cls, values: Any, source: str) -> Self:
        """Build from parsed JSON, naming `source` (a file) in the error.

        Raises:
            ConfigError: as the constructor, with the file's name in front.
        """
        if not isinstance(values, dict):
            raise ConfigError(
                f"{source}: expected an object of settings, found {type(values).__name__}."
            )
        try:
            return cls(**values)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None


def _explain(cls: type[Configuration], error: ValidationError) -> str:
    lines = [_explain_one(cls, dict(item)) for item in error.errors(include_url=False)]
    more = f"; {len(lines) - _MOST_TOLD} more" if len(lines) > _MOST_TOLD else ""
    return f"{cls.__name__}: " + "; ".join(lines[:_MOST_TOLD]) + more


def _explain_one(cls: type[Configuration], item: dict[str, Any]) -> str:
    field = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"unknown setting {field!r}{_nearest(cls, str(item['loc'][-1]))}"
    if item["type"] == "missing":  # whose input is all that was given
        return f"{field} is missing"
    message = item["msg"].removeprefix("Value error, ")
    if not field or item["type"] == "value_error":
        return f"{field}: {message}" if field else message
    return f"{field}: {message} (got {item.get('input')!r:.{_LONGEST_TOLD}})"


def _nearest(cls: type[Configuration], name: str) -> str:
    close = get_close_matches(name, cls.model_fields, n=1, cutoff=0.5)
    known = ", ".join(sorted(cls.model_fields))
    return f" (did you mean {close[0]!r}?)" if close else f" (known: {known})"
