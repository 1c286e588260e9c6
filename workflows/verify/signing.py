"""A person's private key, read from a PEM file to sign with. It is neither copied nor shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from actors.errors import InputError, one_line

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

MIN_RSA_BITS = 2048
Algorithm = Literal["es256", "es384", "es512", "ps256", "ed25519"]  # as C2PA calls them
CURVES: dict[str, Algorithm] = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}


@dataclass(frozen=True, kw_only=True, slots=True)
class SigningKey:
    """A private key. `algorithm` is what it signs with in C2PA; `path` is where it was read from."""

    path: str
    algorithm: Algorithm
    private: PrivateKeyTypes = field(repr=False)

    def sign(self, data: bytes) -> bytes:
        """A signature that `openssl dgst -sha256 -verify` checks (`openssl pkeyutl -rawin` for Ed25519)."""
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

        if isinstance(self.private, ec.EllipticCurvePrivateKey):
            return self.private.sign(data, ec.ECDSA(hashes.SHA256()))
        if isinstance(self.private, rsa.RSAPrivateKey):
            return self.private.sign(data, padding.PKCS1v15(), hashes.SHA256())
        assert isinstance(self.private, ed25519.Ed25519PrivateKey)
        return self.private.sign(data)

    def public_pem(self) -> str:
        from cryptography.hazmat.primitives import serialization

        public = self.private.public_key()
        encoding, kind = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        return public.public_bytes(encoding, kind).decode()

    def private_pem(self) -> bytes:
        """PKCS 8, for a library that signs itself."""
        from cryptography.hazmat.primitives import serialization

        encoding, kind = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        return self.private.private_bytes(encoding, kind, serialization.NoEncryption())


def read_signing_key(path: str, option: str) -> SigningKey:
    """The private key in a PEM file, which `option` names. Raises InputError; the message has nothing of the key."""
    try:
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ImportError as error:
        raise InputError(f'{option} needs the package cryptography: pip install "janus-batch[c2pa]"') from error
    data = read_file(path, option)
    try:
        private = load_pem_private_key(data, password=None)
    except TypeError as error:
        raise InputError(
            f"{option}: {one_line(path)} is encrypted; `openssl pkey` writes it without a password"
        ) from error
    except ValueError as error:
        raise InputError(f"{option}: {one_line(path)} holds no private key in PEM format") from error
    return SigningKey(path=path, algorithm=_algorithm_of(private, path, option), private=private)


def read_file(path: str, option: str) -> bytes:
    """A file that an option names. Raises InputError."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise InputError(f"{option}: {one_line(path)} cannot be read: {error.strerror}") from error


def _algorithm_of(private: PrivateKeyTypes, path: str, option: str) -> Algorithm:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(private, ec.EllipticCurvePrivateKey) and private.curve.name in CURVES:
        return CURVES[private.curve.name]
    if isinstance(private, rsa.RSAPrivateKey) and private.key_size >= MIN_RSA_BITS:
        return "ps256"
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return "ed25519"
    raise InputError(
        f"{option}: the key in {one_line(path)} must be of the curve P-256, P-384 or P-521, Ed25519, or RSA with at "
        f"least {MIN_RSA_BITS:,} bits"
    )
