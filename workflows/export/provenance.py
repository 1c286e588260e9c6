"""C2PA manifests: signed statements in the files of an export of what made its images. https://c2pa.org

Either each image has a manifest, or each shard has a zip file with one, `provenance/<shard>.zip`, that lists the hashes
of its images and signs the root of their hash tree.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Literal

from PIL import Image

from actors.errors import InputError, one_line, reason_line
from janus_batch import VERSION
from workflows.export.images import ExportImage
from workflows.output.encode import DIGITAL_SOURCE_TYPE
from workflows.verify.signing import SigningKey, read_file, read_signing_key

Unit = Literal["image", "shard"]
IMAGE_LABEL, SHARD_LABEL = "org.janus-batch.image", "org.janus-batch.shard"  # of our assertions
HASHES_FILE = "hashes.json"  # in the zip file of a shard
_MIME_TYPES = {"png": "image/png", "webp": "image/webp", "jpg": "image/jpeg"}
_SETTINGS = {"builder": {"thumbnail": {"enabled": False}}}  # a picture of the picture would be most of the manifest
# What a manifest says of its image: the columns of the row that decide its bytes, and its hash before it was signed.
_COLUMNS = (
    *("image_id", "prompt", "negative_prompt", "seed", "cfg_weight", "model", "model_revision", "weights_sha256"),
    *("sampler", "image_sha256"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Credentials:
    """What an export is signed with: a certificate chain in PEM format, leaf first, and the key of the leaf."""

    unit: Unit
    chain: bytes = field(repr=False)
    key: SigningKey = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the certificate file."""
        return hashlib.sha256(self.chain).hexdigest()

    def sign_image(self, image: ExportImage) -> bytes:
        """The image's file with a manifest that says how it was made."""
        [row] = image.record.select([name for name in _COLUMNS if name in image.record.column_names]).to_pylist()
        definition = _definition(image.image_id, IMAGE_LABEL, row)
        return _sign(self, definition, _MIME_TYPES[image.extension], image.data)

    def sign_hashes(self, shard_id: str, image_ids: Sequence[str], hashes: Sequence[bytes]) -> bytes:
        """A zip file with the hashes of a shard's images, and a manifest with the root of their tree."""
        images = [{"image_id": name, "sha256": one.hex()} for name, one in zip(image_ids, hashes, strict=True)]
        listed = json.dumps({"shard": shard_id, "images": images}, ensure_ascii=False, indent=1) + "\n"
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr(zipfile.ZipInfo(HASHES_FILE), listed.encode())
        facts = {"shard": shard_id, "num_images": len(hashes), "sha256_tree_root": tree_root(hashes).hex()}
        return _sign(self, _definition(shard_id, SHARD_LABEL, facts), "zip", buffer.getvalue())


def open_credentials(unit: Unit, certificate: str | None, key: str | None) -> Credentials:
    """Read the certificate and its key, and sign something to see that they work. Raises InputError."""
    if certificate is None or key is None:
        raise InputError("--c2pa needs --c2pa-certificate and --c2pa-key, or their variables in the environment")
    _c2pa()
    chain, private = read_file(certificate, "--c2pa-certificate"), read_signing_key(key, "--c2pa-key")
    _check_pair(chain, private, certificate)
    credentials = Credentials(unit=unit, chain=chain, key=private)
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    if fault := fault_of(
        _sign(credentials, _definition("trial", IMAGE_LABEL, {}), "image/png", buffer.getvalue()), "png"
    ):
        raise InputError(f"--c2pa-certificate: {one_line(certificate)} cannot sign for C2PA: {fault}")
    return credentials


def fault_of(data: bytes, extension: str) -> str:
    """What is wrong with the manifest of a file; empty if it is valid. Whom to trust is for the reader to decide."""
    c2pa = _c2pa()
    try:
        with c2pa.Reader(_MIME_TYPES.get(extension, extension), io.BytesIO(data)) as reader:
            if reader.get_validation_state() != "Invalid":
                return ""
            statuses = json.loads(reader.json()).get("validation_status", [])
    except c2pa.C2paError as error:
        return reason_line(error)
    codes = [status["code"] for status in statuses if status["code"] != "signingCredential.untrusted"]
    return ", ".join(codes) or "its manifest is invalid"


def assertion_of(data: bytes, extension: str, label: str) -> dict[str, Any]:
    """What the manifest of a file says under one of our labels."""
    with _c2pa().Reader(_MIME_TYPES.get(extension, extension), io.BytesIO(data)) as reader:
        store = json.loads(reader.json())
    assertions = store["manifests"][store["active_manifest"]]["assertions"]
    return next((dict(one["data"]) for one in assertions if one["label"] == label), {})


def tree_root(hashes: Sequence[bytes]) -> bytes:
    """The root of the hash tree over SHA-256 hashes, as in RFC 9162 (2.1.1): it proves one image without the others."""
    if not hashes:
        return hashlib.sha256().digest()
    if len(hashes) == 1:
        return hashlib.sha256(b"\0" + hashes[0]).digest()
    half = 1 << (len(hashes) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + tree_root(hashes[:half]) + tree_root(hashes[half:])).digest()


def _definition(title: str, label: str, facts: dict[str, Any]) -> str:
    agent = {"name": "janus-batch", "version": VERSION}
    action = {"action": "c2pa.created", "digitalSourceType": DIGITAL_SOURCE_TYPE, "softwareAgent": agent}
    assertions = [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}, {"label": label, "data": facts}]
    return json.dumps({"claim_generator_info": [agent], "title": title, "assertions": assertions})


def _sign(credentials: Credentials, definition: str, kind: str, data: bytes) -> bytes:
    """The file with a signed manifest. Raises InputError if the certificate does not allow it."""
    c2pa, signed = _c2pa(), io.BytesIO()
    algorithm = getattr(c2pa.C2paSigningAlg, credentials.key.algorithm.upper())
    info = c2pa.C2paSignerInfo(algorithm, credentials.chain, credentials.key.private_pem(), None)
    try:
        with (
            c2pa.Context(c2pa.Settings.from_dict(_SETTINGS)) as context,
            c2pa.Builder(definition, context) as builder,
            c2pa.Signer.from_info(info) as signer,
        ):
            builder.sign(signer, kind, io.BytesIO(data), signed)
    except c2pa.C2paError as error:
        raise InputError(f"--c2pa-certificate: the certificate cannot sign for C2PA: {reason_line(error)}") from error
    return signed.getvalue()


def _check_pair(chain: bytes, key: SigningKey, path: str) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    try:
        leaf = x509.load_pem_x509_certificates(chain)[0]
    except ValueError as error:
        raise InputError(f"--c2pa-certificate: {one_line(path)} holds no certificate in PEM format") from error
    encoding, kind = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    if leaf.public_key().public_bytes(encoding, kind).decode() != key.public_pem():
        raise InputError(
            f"--c2pa-key: {one_line(key.path)} is not the key of the first certificate in {one_line(path)}"
        )


def _c2pa() -> ModuleType:
    try:
        import c2pa
    except ImportError as error:
        raise InputError('--c2pa needs the package c2pa-python: pip install "janus-batch[c2pa]"') from error
    module: ModuleType = c2pa
    return module
