"""A page as one HTML document: a template with the style, the script and the data inlined.

The page loads nothing from a network, and its content security policy enforces that in the browser.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from janus_batch import VERSION
from workflows.report import charts, formats
from workflows.report.script_data import clean, data_url, image_link, is_lossless, script_json, thumbnail_chunks
from workflows.report.selection import SelectedImage, thumbnail_size

FILES = Path(__file__).parent / "files"


def render_page(
    template: str,
    images: Sequence[SelectedImage],
    script_data: dict[str, Any],
    variables: dict[str, Any],
    *,
    num_columns: int,
) -> str:
    """The document. `variables` are escaped by the template; `num_columns` is the width of its grid."""
    environment = _environment()
    style = environment.get_template("page.css").render(thumbnail=thumbnail_size(len(images)), num_columns=num_columns)
    script = (FILES / "page.js").read_text(encoding="utf-8")
    inlined = {
        # The only texts that are not escaped: our own files, and JSON that script_json made safe.
        "style": Markup(style),
        "script": Markup(script),
        "data": Markup(script_json(script_data)),
        "chunks": [Markup(script_json(chunk)) for chunk in thumbnail_chunks(images)],
    }
    page = environment.get_template(template)
    return page.render(
        policy=_policy(style, script), version=VERSION, made_at=datetime.now(UTC), **inlined, **variables
    )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FILES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., str]] = {
        "clean": clean,
        "count": formats.count_text,
        "duration": formats.duration_text,
        "moment": formats.moment_text,
        "setting": formats.setting_text,
        "throughput": formats.throughput_text,
        "weight": formats.weight_text,
    }
    environment.filters |= filters
    environment.globals |= {
        "data_url": data_url,
        "image_link": image_link,
        "is_lossless": is_lossless,
        "charts": charts,
    }
    return environment


def _policy(style: str, script: str) -> str:
    """Only this page's own style and script run, and images come from the page or its folder; nothing else loads."""
    return (
        f"default-src 'none'; img-src data: 'self' file:; style-src {_source_hash(style)}; "
        f"script-src {_source_hash(script)}; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
    )


def _source_hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
