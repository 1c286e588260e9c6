"""Checks of arguments: the name, the rule and the value in each error."""

from __future__ import annotations

import operator
import os
from typing import Any

from actors.errors import InputError, shown


def path_of(value: Any, name: str) -> str:
    """A path or URL as text. Raises InputError."""
    location = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(location, str):
        raise InputError(f"{name}: must be a path or URL, got {shown(value)}")
    return location


def text_of(value: Any, name: str, rule: str) -> str:
    """A text. Raises InputError with the rule in words."""
    if not isinstance(value, str) or not value:
        raise InputError(f"{name}: must be {rule}, got {shown(value)}")
    return value


def flag_of(value: Any, name: str) -> bool:
    """True or False. Raises InputError."""
    if not isinstance(value, bool):
        raise InputError(f"{name}: must be True or False, got {shown(value)}")
    return value


def position_of(value: Any, length: int) -> int:
    """The position of an image, counted from 0, or from the end if it is negative.

    Raises InputError, and IndexError if there are fewer images.
    """
    try:
        position = operator.index(value)
    except TypeError:
        raise InputError(
            f"images[...]: takes a position or a slice, got {shown(value)}; output.image(ID) takes an id"
        ) from None
    if not -length <= position < length:
        raise IndexError(f"the output has {length:,} images, got position {position:,}")
    return position
