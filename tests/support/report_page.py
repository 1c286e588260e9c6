"""A report parsed as a browser parses it."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from html.parser import HTMLParser

from PIL import Image


class Page(HTMLParser):
    """A report parsed as a browser parses it: its elements, its text, and the data of its script elements."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.scripts: dict[str, str] = {}
        self.style = ""
        self.texts: list[str] = []
        self._raw: str | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attributes}))
        self._raw = {"script": dict(attributes).get("id", "code"), "style": "style"}.get(tag)

    def handle_endtag(self, tag: str) -> None:
        self._raw = None

    def handle_data(self, data: str) -> None:
        if self._raw == "style":
            self.style += data
        elif self._raw:
            self.scripts[self._raw] = self.scripts.get(self._raw, "") + data
        else:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    @property
    def data(self) -> dict:
        return json.loads(self.scripts["data"])

    @property
    def images(self) -> dict:
        return self.data["images"]

    def attributes(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def thumbnails(self) -> Iterator[Image.Image | None]:
        chunks = [self.scripts[f"thumbnails-{i}"] for i in range(sum(name[:6] == "thumbn" for name in self.scripts))]
        for text in (text for chunk in chunks for text in json.loads(chunk)):
            yield Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB") if text else None
