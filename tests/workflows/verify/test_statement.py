"""Signed statements of `verify --certificate`, checked with openssl."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from tests.support.certificates import KEYS, write_key
from tests.support.command_line import Command
from tests.support.exports import finished_with
from tests.support.toy_job import manifest_of
from workflows.job import RenderJob


@pytest.fixture
def job(tmp_path: Path) -> RenderJob:
    return finished_with(tmp_path, {"id": ["a", "b", "c"]})


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(tmp_path, monkeypatch, capsys)


def openssl_accepts(path: Path, kind: str) -> bool:
    """Whether openssl accepts the signature, by the commands in docs/export.md."""
    check = ["openssl", "dgst", "-sha256", "-verify", f"{path}.pub.pem", "-signature", f"{path}.sig", str(path)]
    if kind == "Ed25519":
        check = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", f"{path}.pub.pem", "-rawin", "-in", str(path),
                 "-sigfile", f"{path}.sig"]  # fmt: skip
    return subprocess.run(check, capture_output=True).returncode == 0


@pytest.mark.parametrize("kind", KEYS)
def test_openssl_accepts_the_statement_and_no_other(
    job: RenderJob, command: Command, tmp_path: Path, kind: str
) -> None:
    write_key(tmp_path / "key.pem", kind)
    path = tmp_path / "statement.json"

    code, out, err = command(
        "verify", job.output, "--replay", "2", "--certificate", str(path), "--key", str(tmp_path / "key.pem")
    )

    assert (code, err) == (0, "")
    assert f"statement   {path}, signed with {path}.sig; {path}.pub.pem checks it" in out.splitlines()
    assert openssl_accepts(path, kind)
    path.write_bytes(path.read_bytes().replace(b'"num_missing": 0', b'"num_missing": 1'))
    assert not openssl_accepts(path, kind)


def test_the_statement_names_the_rows_their_devices_and_the_results(
    job: RenderJob, command: Command, tmp_path: Path
) -> None:
    write_key(tmp_path / "key.pem")
    path = tmp_path / "statement.json"
    next((tmp_path / "out/images").rglob("b_0.png")).write_bytes(b"other")

    code, _, _ = command(
        "verify", job.output, "--replay", "3", "--certificate", str(path), "--key", str(tmp_path / "key.pem")
    )

    statement = json.loads(path.read_text())
    hashes = {row["image_id"]: row["image_sha256"] for row in manifest_of(job)}
    results = {one["image_id"]: one for one in statement["replays"]["images"]}
    assert code == 1
    assert {image_id: one["same_bytes"] for image_id, one in results.items()} == {
        "a_0": True, "b_0": False, "c_0": True,
    }  # fmt: skip
    assert {image_id: one["image_sha256"] for image_id, one in results.items()} == hashes
    assert {(one["rendered_on"], one["replayed_on"]) for one in results.values()} == {("cpu", "cpu")}
    assert len(statement["faults"]) == 1
    assert statement["output"]["recipe"]["weights_sha256"] == job.recipe.weights_sha256
    lines = [
        f"{hashlib.sha256(part.read_bytes()).hexdigest()}  manifest/{part.name}\n"
        for part in sorted((tmp_path / "out/manifest").iterdir())
    ]
    assert statement["manifest"]["sha256_of_parts"] == hashlib.sha256("".join(lines).encode()).hexdigest()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--certificate", "x.json"], "--certificate needs --replay N and --key"),
        (["--certificate", "x.json", "--key", "key.pem"], "--certificate needs --replay N and --key"),
        (["--certificate", "x.json", "--replay", "1", "--key", "none.pem"], "--key: none.pem cannot be read: No such"),
    ],
)
def test_a_statement_without_key_or_replay_is_refused(
    job: RenderJob, command: Command, arguments: list[str], message: str
) -> None:
    code, _, err = command("verify", job.output, *arguments)

    assert code == 2
    assert message in err


def test_an_encrypted_key_is_refused(job: RenderJob, command: Command, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    write_key(key)
    encrypt = ["openssl", "pkey", "-in", str(key), "-aes256", "-passout", "pass:secret", "-out", f"{key}.enc"]
    subprocess.run(encrypt, check=True, capture_output=True)

    code, _, err = command(
        "verify", job.output, "--replay", "1", "--certificate", str(tmp_path / "x"), "--key", f"{key}.enc"
    )

    assert code == 2
    assert "is encrypted; `openssl pkey` writes it without a password" in err
