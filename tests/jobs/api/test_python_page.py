"""The examples of docs/python.md run one after the other, and the page has the function's own signature."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import janus_batch
from tests.support.command import ROOT

PAGE = (ROOT / "docs/python.md").read_text(encoding="utf-8")


def test_the_page_has_the_signature() -> None:
    parameters = [
        str(parameter.replace(annotation=parameter.empty)).replace("'", '"')
        for parameter in inspect.signature(janus_batch.render).parameters.values()
    ]
    parameters.insert(1, "*")

    assert f"janus_batch.render({', '.join(parameters)}) -> Output" in " ".join(PAGE.split())


def test_the_examples_run(ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}

    for block in re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        block = block.replace("janus-shapes", "toy")  # a second instead of a minute
        exec(compile(block, "docs/python.md", "exec"), names)  # noqa: S102 the project's own page

    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["first.png", "varied.png"]
    assert len(list(tmp_path.glob("renders/triangle/images/*/*.webp"))) == 4
