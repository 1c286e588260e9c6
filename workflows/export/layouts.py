"""The table of export layouts. A new layout is a file like theirs and an entry here."""

from __future__ import annotations

from workflows.export.dpg import DPG
from workflows.export.geneval import GENEVAL
from workflows.export.imagefolder import IMAGEFOLDER
from workflows.export.webdataset import WEBDATASET

EXPORT_LAYOUTS = {"imagefolder": IMAGEFOLDER, "webdataset": WEBDATASET, "geneval": GENEVAL, "dpg": DPG}
