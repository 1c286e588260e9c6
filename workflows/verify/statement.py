"""A signed statement about an output: what `verify` checked, and which images were re-rendered with what result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from janus_batch import VERSION
from workflows.output.claim import Claim
from workflows.output.manifest import committed_parts, manifest_name
from workflows.storage.store import Storage
from workflows.verify.check import Findings
from workflows.verify.replay import Replay
from workflows.verify.signing import SigningKey


def statement_of(storage: Storage, claim: Claim, findings: Findings, replays: Sequence[Replay], seed: int) -> bytes:
    """The statement as JSON: the output and its manifest, the checks, and every image that was re-rendered."""
    statement: dict[str, Any] = {
        "statement": "janus-batch verify",
        "version": VERSION,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "output": {"name": claim.name, "location": storage.url, "recipe": claim.recipe.to_dict()},
        "manifest": {
            "num_images": findings.num_images,
            "num_rejected": findings.num_rejected,
            "num_missing": findings.num_missing,
            "sha256_of_parts": _manifest_digest(storage),
        },
        "faults": findings.faults,
        "replays": {
            "seed": seed,
            "num_images": len(replays),
            "num_same_bytes": sum(replay.same_bytes for replay in replays),
            "num_same_pixels": sum(replay.same_pixels for replay in replays),
            "images": [asdict(replay) for replay in replays],
        },
    }
    return (json.dumps(statement, ensure_ascii=False, indent=2) + "\n").encode()


def _manifest_digest(storage: Storage) -> str:
    """The SHA-256 of the lines `<sha256>  manifest/<part>.parquet`, as `sha256sum manifest/*.parquet` prints them."""
    digest = hashlib.sha256()
    for part in committed_parts(storage):
        name = manifest_name(part)
        digest.update(f"{hashlib.sha256(storage.read(name)).hexdigest()}  {name}\n".encode())
    return digest.hexdigest()


def write_statement(path: str, statement: bytes, key: SigningKey) -> None:
    """Write the statement, its signature (`PATH.sig`) and the public key that checks it (`PATH.pub.pem`)."""
    for name, data in (
        (path, statement),
        (f"{path}.sig", key.sign(statement)),
        (f"{path}.pub.pem", key.public_pem().encode()),
    ):
        with open(name, "wb") as file:
            file.write(data)
