"""One spelling for each location, and a refusal of what means something else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from workflows.storage.path import LocationError, absolute_location, folders_around, lies_among, stable_location

ON_POSIX = pytest.mark.skipif(os.name != "posix", reason="these are paths on Windows")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("/data/prompts/", "/data/prompts"),
        ("/data/../data//prompts", "/data/prompts"),
        ("//data/prompts", "/data/prompts"),
        ("prompts", "{cwd}/prompts"),
        ("./prompts/**/*.parquet", "{cwd}/prompts/**/*.parquet"),
        ("~/prompts", "{home}/prompts"),
        ("file:///data/prompts/", "/data/prompts"),
        ("local:///data/prompts", "/data/prompts"),
        ("FILE:///data/a::b", "/data/a::b"),
        ("exp::v1/out", "{cwd}/exp::v1/out"),
        ("a:b/c", "{cwd}/a:b/c"),
        ("s3://bucket/prompts/", "s3://bucket/prompts"),
        ("S3://Bucket/Prompts//", "s3://Bucket/Prompts"),
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/cost$s/x", "s3://bucket/cost$s/x"),
        ("https://host/a//b?x=1", "https://host/a//b?x=1"),
        ("http://[::1]:80/p.parquet", "http://[::1]:80/p.parquet"),
        ("hdfs:///data/x", "hdfs:///data/x"),
    ],
)
def test_a_location_means_the_same_from_every_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")

    found = absolute_location(written)

    assert found == expected.format(cwd=os.getcwd(), home="/home/someone")
    assert absolute_location(found) == found


@pytest.mark.parametrize(
    ("written", "rule"),
    [
        ("", "must not be empty, got ''"),
        ("  ", "must not be empty"),
        (" s3://bucket", "must not start or end with a space"),
        ("a\nb", "line breaks and other control characters"),
        ("a\x00b", "line breaks and other control characters"),
        ("$HOME/x", r"variables such as \$HOME and \$\{NAME\} are not expanded; write the path itself, or ~/, got"),
        ("/data/${DAY}/x", "variables such as"),
        ("s3://bucket/${DAY}/x", "variables such as .* write the URL itself"),
        ("~no-such-user-here/x", "no such user"),
        ("s3:/bucket/x", "a URL has two slashes after its scheme: s3://, got 's3:/bucket/x'"),
        ("s3:bucket/x", "a URL has two slashes after its scheme: s3://"),
        ("S3:/bucket/x", "a URL has two slashes after its scheme: s3://"),
        ("https:/host/x", "a URL has two slashes after its scheme: https://"),
        ("file:/data/x", "a URL has two slashes after its scheme: file://"),
        ("file://data/x", "a file:// URL needs an absolute path"),
        ("s3://bucket//x", r"a URL cannot have an empty part \(//\)"),
        ("s3://bucket/a//b/", r"a URL cannot have an empty part \(//\)"),
        ("s3://bucket/a/../b", "or the parts . and .."),
        ("s3:///x", "the URL names no bucket"),
        ("s3://", "the URL names no bucket"),
        ("zip://x::/etc/passwd", "`::` .chained URLs. is not supported"),
        ("s3://bucket/exp::v1", "`::` .chained URLs. is not supported"),
        ("simplecache::s3://bucket/x", "a URL begins with its scheme"),
        ("<s3://bucket/x>", "a URL begins with its scheme"),
        ("s3//bucket/x", "a URL has a colon after its scheme: s3://"),
        ("hf:datasets/a/b", "a URL has two slashes after its scheme: hf://"),
        ("http:///x", "the URL names no host"),
        ("http://:80/x", "the URL names no host"),
        ("https://?x=1", "the URL names no host"),
        ("S3://", "the URL names no bucket"),
        ("gs:///x", "the URL names no bucket"),
        ("s3://..", "the URL names no bucket"),
        ("hf://", r"the URL names nothing after hf:// .*hf://datasets/ORGANIZATION/NAME.*, got 'hf://'"),
        ("HF:///", "the URL names nothing after hf://"),
        ("memory://", "the URL names nothing after memory://"),
        ("sftp:///", "the URL names nothing after sftp://"),
        ("xyz://", "the URL names nothing after xyz://"),
        ("memory:", "a URL has two slashes after its scheme: memory://"),
        ("simplecache::", "`::` .chained URLs. is not supported"),
        ("::/data", "`::` .chained URLs. is not supported"),
        ("s3://bucket/x?versionId=3", "cannot name the version of an object"),
        ("$(pwd)/x", "variables such as"),
        ("`pwd`/x", "variables such as"),
        ("%USERPROFILE%/x", "variables such as"),
        pytest.param(r"C:\data\x", "a path of Windows", marks=ON_POSIX),
        pytest.param(r"\\server\share", "a path of Windows", marks=ON_POSIX),
        ("/" + "a" * 256, "a path has at most 4,096 bytes, and a name in it 255"),
        ("/a" * 3000, "a path has at most 4,096 bytes"),
    ],
)
def test_what_means_something_else_is_refused(written: str, rule: str) -> None:
    with pytest.raises(LocationError, match=f"^OUTPUT: .*{rule}") as refused:
        absolute_location(written, "OUTPUT")
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    ("written", "rule"),
    [
        ("https://host/out", "a web server takes no files, so https:// can only be read"),
        ("memory://out", "memory:// is lost with its process"),
        ("hf://datasets/me/out", "the hub takes no files one by one; `janus-batch export --push-to ORG/NAME` uploads"),
    ],
)
def test_what_cannot_be_written_to_is_no_output(written: str, rule: str) -> None:
    with pytest.raises(LocationError, match=f"^OUTPUT: {rule}"):
        absolute_location(written, "OUTPUT", is_written=True)
    assert absolute_location(written, "prompts") == written


@pytest.mark.parametrize("name", ["$HOME", "s3:", "%DATA%", "C:\\x", "${X}", "[a] *?", "~user"])
def test_a_path_that_exists_is_taken_literally(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name / "x").mkdir(parents=True)

    assert absolute_location(f"{name}/x") == f"{os.getcwd()}/{name}/x"


@pytest.mark.parametrize(
    ("output", "prompts"),
    [
        ("/q", "/q"),
        ("/q/out", "/q"),
        ("/q/out", "/"),
        ("/q/out", "/q/**/*.parquet"),
        ("/q/out", "/q/*/*/*.parquet"),
        ("/q/out", "/*/out/manifest/*"),
        ("s3://b/q/out", "s3://b/q"),
        ("s3://b/q/out", "s3a://b/q"),
        ("s3://b/q/out", "s3a://b/*/out/**/*.parquet"),
    ],
)
def test_an_output_among_the_prompts_is_known(output: str, prompts: str) -> None:
    assert lies_among(output, prompts)


@pytest.mark.parametrize(
    ("output", "prompts"),
    [
        ("/q-out", "/q"),
        ("/q/out", "/q/*.parquet"),
        ("/q/out", "/q/p.parquet"),
        ("/q/out", "/q/in/**/*.parquet"),
        ("s3://b/q/out", "gs://b/q"),
        ("/q/out", "s3://q"),
    ],
)
def test_an_output_next_to_the_prompts_is_no_fault(output: str, prompts: str) -> None:
    assert not lies_among(output, prompts)


def test_the_folders_around_a_location_come_with_the_path_from_there() -> None:
    assert list(folders_around("/no/such/x")) == [("/no/such", "x"), ("/no", "such/x")]
    assert list(folders_around("s3://b/q/out")) == [("s3://b/q", "out"), ("s3://b", "q/out")]
    assert list(folders_around("s3://b")) == []


def test_links_do_not_hide_an_output_among_the_prompts(tmp_path: Path) -> None:
    (tmp_path / "q").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "q")

    assert lies_among(f"{tmp_path}/q/out", f"{tmp_path}/link")
    assert lies_among(f"{tmp_path}/link/out", f"{tmp_path}/q")
    assert lies_among(f"{tmp_path}/q/out", f"{tmp_path}/link/*/*/*.parquet")


def test_an_upload_is_compared_by_its_place_in_the_working_directory() -> None:
    session = "/tmp/ray/session_2026/runtime_resources/working_dir_files"
    one, other = f"{session}/_ray_pkg_0a1b/prompts/p.parquet", f"/tmp/2{session}/_ray_pkg_ff/prompts/p.parquet"

    assert stable_location(one) == stable_location(other) != stable_location(f"{session}/_ray_pkg_0a1b/other")
    assert stable_location("/data/prompts") == "/data/prompts"
