"""The first images of an output as HTML for a notebook, in one piece that loads nothing."""

from __future__ import annotations

import base64
import html
from typing import Any

import pyarrow as pa

from jobs.api.images import Images
from workflows.report.thumbnails import Form, make_thumbnail
from workflows.storage.damage import DamagedFileError

NUM_SHOWN = 24
PIXELS = 192
FORM = Form(size=2 * PIXELS, is_lossless=True)  # small images keep every pixel, and are enlarged without blur
ROWS = "display:flex;flex-wrap:wrap"  # as many images in a row as there is room for
FIGURE = (
    '<figure style="margin:0;width:{size}px"><img src="{source}" alt="" style="width:100%;border:1px solid #8884;'
    'image-rendering:{rendering}"><figcaption title="{title}" style="font-size:12px;line-height:1.3;overflow:hidden;'
    'display:-webkit-box;-webkit-line-clamp:2;-webkit-box-orient:vertical">{caption}</figcaption></figure>'
)


def grid(head: str, rows: pa.Table, images: Images) -> str:
    """A heading and up to NUM_SHOWN images, each with its prompt and, in a sweep, its weight. A row of a sweep has the
    images of one prompt.
    """
    shown = rows.slice(0, NUM_SHOWN).select(["image_id", "prompt", "cfg_weight"]).to_pylist()
    weights = [row["cfg_weight"] for row in shown]
    num_weights = len(set(weights))
    has_weights = num_weights > 1
    figures = [_figure(row, images, number, has_weight=has_weights) for number, row in enumerate(shown)]
    more = f"<p>and {rows.num_rows - NUM_SHOWN:,} more</p>" if rows.num_rows > NUM_SHOWN else ""
    is_sweep = has_weights and all(weight == weights[i % num_weights] for i, weight in enumerate(weights))
    layout = f"display:grid;grid-template-columns:repeat({num_weights},{PIXELS}px)" if is_sweep else ROWS
    return f'<p>{html.escape(head)}</p><div style="{layout};gap:12px">{"".join(figures)}</div>{more}'


def _figure(row: dict[str, Any], images: Images, number: int, *, has_weight: bool) -> str:
    prompt = html.escape(row["prompt"])
    weight = f"<b>weight {row['cfg_weight']:g}</b> " if has_weight else ""
    title = f"{html.escape(row['image_id'])}: {prompt}"
    try:
        thumbnail = make_thumbnail(images.file(number), FORM)
    except DamagedFileError as error:
        return f"<p>{html.escape(str(error))}</p>"
    if thumbnail is None:
        return f"<p>{title}: not a readable image</p>"
    is_small = thumbnail.startswith(b"\x89PNG")
    kind, rendering = ("png", "pixelated") if is_small else ("webp", "auto")
    source = f"data:image/{kind};base64,{base64.b64encode(thumbnail).decode()}"
    return FIGURE.format(size=PIXELS, source=source, rendering=rendering, title=title, caption=weight + prompt)
