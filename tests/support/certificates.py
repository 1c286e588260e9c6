"""Keys and certificates for tests: a chain that C2PA accepts, leaf first, made by an authority of its own."""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

KEYS = {
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "RSA": lambda: rsa.generate_private_key(65537, 2048),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
}
_FOREVER = (datetime.datetime(2020, 1, 1), datetime.datetime(2100, 1, 1))


def write_key(path: Path, kind: str = "P-256") -> CertificateIssuerPrivateKeyTypes:
    """A new private key in a file."""
    key = KEYS[kind]()
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    path.write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
    return key


def write_certificate(folder: Path, kind: str = "P-256", *, can_sign: bool = True) -> tuple[str, str]:
    """A certificate chain and the key of its leaf in files. Without `can_sign`, the leaf is for servers only."""
    authority, key = ec.generate_private_key(ec.SECP256R1()), write_key(folder / "key.pem", kind)
    issuer, subject = _name("An authority of the tests"), _name("A signer of the tests")
    root = _builder(issuer, issuer, authority.public_key(), is_authority=True)
    usage = ExtendedKeyUsageOID.EMAIL_PROTECTION if can_sign else ExtendedKeyUsageOID.SERVER_AUTH
    leaf = _builder(subject, issuer, key.public_key(), is_authority=False).add_extension(
        x509.ExtendedKeyUsage([usage]), critical=False
    )
    leaf = leaf.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False
    )
    signed = [builder.sign(authority, hashes.SHA256()) for builder in (leaf, root)]
    path = folder / "chain.pem"
    path.write_bytes(b"".join(one.public_bytes(serialization.Encoding.PEM) for one in signed))
    return str(path), str(folder / "key.pem")


def _builder(subject: x509.Name, issuer: x509.Name, public: object, *, is_authority: bool) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=public)  # type: ignore[arg-type]
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(_FOREVER[0])
    usage = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return (
        builder.not_valid_after(_FOREVER[1])
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)  # type: ignore[arg-type]
        .add_extension(
            x509.KeyUsage(
                digital_signature=not is_authority, key_cert_sign=is_authority, crl_sign=is_authority, **usage
            ),
            critical=True,
        )
    )


def _name(common_name: str) -> x509.Name:
    organization = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "janus-batch")
    return x509.Name([organization, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
