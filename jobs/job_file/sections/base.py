"""What the sections of a job file share: their base class, and errors whose rule names the keys itself."""

from __future__ import annotations

import typing
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from workflows.storage.credentials import secret_in_address
from workflows.storage.path import check_location

# Own types of pydantic errors: the rule already names the keys and values, or the value must not be shown.
BETWEEN_FAULT, SECRET_FAULT = "between", "secret"
FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]


class Section(BaseModel):
    """A part of a job file. A key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def checked_location(location: str) -> str:
    if secret := secret_in_address(location):
        raise secret_fault(secret)
    check_location(location)
    return location


def secret_fault(secret: str, remedy: str = "credentials come from the environment") -> PydanticCustomError:
    rule = f"{secret} is refused, because job files are copied into job.json and logs; {remedy}"
    return PydanticCustomError(SECRET_FAULT, "{rule}", {"rule": rule})


def plain_error(rule: str) -> PydanticCustomError:
    """An error whose rule already names the keys and values."""
    return PydanticCustomError(BETWEEN_FAULT, "{rule}", {"rule": rule})


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The model of a required or optional section; None for any other key."""
    kinds = [kind for kind in (annotation, *typing.get_args(annotation)) if isinstance(kind, type)]
    return next((kind for kind in kinds if issubclass(kind, BaseModel)), None)
