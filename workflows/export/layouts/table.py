"""The table of export layouts. A new layout is a file like theirs and an entry here."""

from __future__ import annotations

from workflows.export.layouts.codes import CODES
from workflows.export.layouts.dpg import DPG
from workflows.export.layouts.geneval import GENEVAL
from workflows.export.layouts.imagefolder import IMAGEFOLDER
from workflows.export.layouts.lance import LANCE
from workflows.export.layouts.layout import ExportLayout
from workflows.export.layouts.parquet import PARQUET
from workflows.export.layouts.pickapic import PICKAPIC
from workflows.export.layouts.webdataset import WEBDATASET

EXPORT_LAYOUTS: dict[str, ExportLayout] = {
    "imagefolder": IMAGEFOLDER,
    "webdataset": WEBDATASET,
    "parquet": PARQUET,
    "codes": CODES,
    "lance": LANCE,
    "pickapic": PICKAPIC,
    "geneval": GENEVAL,
    "dpg": DPG,
}
