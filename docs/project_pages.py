"""A MkDocs hook that turns README, CONTRIBUTING and CHANGELOG into pages.

Links to other files of the project become their paths. A link to a file that does not exist stays as it is, and
`mkdocs build --strict` refuses it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
LINK = re.compile(r"\[([^\]]+)\]\(([^)#:]+)(#[^)]*)?\)")  # to a file, not to a URL or to a heading of the same page


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    sources = {name: source for source, name in PAGES.items()}
    folder = "" if page.file.src_uri in sources else "docs"
    return LINK.sub(lambda link: _link(link, folder), markdown)


def _link(link: re.Match[str], folder: str) -> str:
    """The link as it is on the site; `folder` is the folder of its page in the project."""
    text, target, heading = link[1], posixpath.normpath(posixpath.join(folder, link[2])), link[3] or ""
    if target in PAGES:
        return f"[{text}]({PAGES[target]}{heading})"
    if target.startswith("docs/"):
        return f"[{text}]({target.removeprefix('docs/')}{heading})"
    if (ROOT / target).exists():
        return f"`{target}`" if text.rstrip("/") in target else f"{text} (`{target}`)"
    return link[0]
