"""The types of the columns in a dataset card, for a layout whose files have no types of their own.

Without them, `datasets` takes the types from the first samples, and fails at the first value of a column that is null
in all of these. https://huggingface.co/docs/hub/datasets-manual-configuration
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

# Arrow's names of types that `datasets` calls otherwise.
_NAMES = {"float": "float32", "double": "float64", "halffloat": "float32"}


def webdataset_features(schema: pa.Schema, extension: str) -> list[dict[str, Any]]:
    """The features of samples with an image of this extension, its prompt (`txt`), and its row (`json`)."""
    row = [{"name": field.name, **_feature(field.type)} for field in schema]
    text = ("txt", "__key__", "__url__")
    return [
        {"name": extension, "dtype": "image"},
        {"name": "json", "struct": row},
        *({"name": name, "dtype": "string"} for name in text),
    ]


def _feature(kind: pa.DataType) -> dict[str, Any]:
    """`dtype`, `list` or `struct`, as the YAML of a card has them."""
    if pa.types.is_struct(kind):
        return {"struct": [{"name": field.name, **_feature(field.type)} for field in kind]}
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = _feature(kind.value_type)
        return {"list": inner.get("dtype") or inner.get("struct") or inner}
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    if is_number or pa.types.is_boolean(kind) or pa.types.is_null(kind):
        return {"dtype": _NAMES.get(str(kind), str(kind))}
    return {"dtype": "string"}  # text, and bytes in base64
