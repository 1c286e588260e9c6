"""Plain text: a prompt a line."""

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path

import pytest

from workflows.prompts import PromptsError, find_prompt_files, read_rows


def test_a_line_is_a_prompt_and_empty_lines_are_skipped_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b'\xef\xbb\xbf  a cat \r\n\r\n"a dog", {x}\n \t\na fox')
    (file,) = find_prompt_files(str(tmp_path / "a.txt"), {})
    assert read_rows(file, 0, 3, {}).to_pylist() == [{"prompt": p} for p in ("  a cat ", '"a dog", {x}', "a fox")]
    assert (file.num_rows, file.num_skipped) == (3, 2)


def test_compressed_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt.bz2").write_bytes(bz2.compress(b"a\n"))
    (tmp_path / "b.txt.xz").write_bytes(lzma.compress(b"b\n"))
    files = find_prompt_files(str(tmp_path), {})
    assert [read_rows(file, 0, 1, {})["prompt"].to_pylist() for file in files] == [["a"], ["b"]]


def test_text_that_is_not_utf8_is_refused_by_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("ein Fuchs\nein Käfer\n".encode("latin-1"))
    with pytest.raises(PromptsError, match=r"line 2 of .*a.txt is not UTF-8 text \(byte 0xE4\)"):
        find_prompt_files(str(tmp_path), {})


def test_an_empty_file_has_no_prompts(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    (file,) = find_prompt_files(str(tmp_path), {})
    assert file.num_rows == 0


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl", "a.txt.gz"])
@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 5\n", "is a Git LFS pointer; `git lfs pull`"),
        ("\ufeff<!DOCTYPE html>\n<title>Sign in</title>\n", "is an HTML or XML page"),
    ],
)
def test_what_a_clone_or_a_download_left_in_place_of_prompts_is_named(
    tmp_path: Path, name: str, content: str, kind: str
) -> None:
    data = content.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)

    with pytest.raises(PromptsError, match=f"{name} {kind}"):
        find_prompt_files(str(tmp_path / name), {})
