"""The cluster's own certificate authority and what it signs. Nothing here leaves the folder."""

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

LIFETIME = datetime.timedelta(days=365)
# (file name, common name, organization); each one's names are the loopback ones.
LEAVES = (
    ("apiserver", "kube-apiserver", ""),
    ("apiserver-kubelet", "apiserver-kubelet", "system:masters"),
    ("admin", "admin", "system:masters"),
    ("controller-manager", "system:kube-controller-manager", ""),
    ("scheduler", "system:kube-scheduler", ""),
    ("kwok", "kwok", "system:masters"),
    ("kubelet", "system:node:localhost", "system:nodes"),
    ("zookeeper", "zookeeper", ""),
    ("zookeeper-client", "zookeeper-client", ""),
)


@dataclass(frozen=True)
class Pki:
    """Paths of the keys and certificates below one folder."""

    folder: Path

    @property
    def ca(self) -> str:
        return str(self.folder / "ca.crt")

    @property
    def service_accounts(self) -> str:
        return str(self.folder / "service-accounts.key")

    @property
    def service_accounts_public(self) -> str:
        return str(self.folder / "service-accounts.pub")

    def cert(self, name: str) -> str:
        return str(self.folder / f"{name}.crt")

    def key(self, name: str) -> str:
        return str(self.folder / f"{name}.key")

    def bundle(self, name: str) -> str:
        """Key and certificate in one file, which is how ZooKeeper wants them."""
        return str(self.folder / f"{name}.pem")


def make(folder: Path) -> Pki:
    """Create everything that LEAVES names, signed by a new authority."""
    pki = Pki(folder)
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = _authority(authority_key)
    Path(pki.ca).write_bytes(_pem(authority))
    _write_service_account_keys(pki)
    for name, common_name, organization in LEAVES:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _leaf(key, _subject(common_name, organization), authority, authority_key)
        Path(pki.cert(name)).write_bytes(_pem(certificate))
        _write_key(Path(pki.key(name)), key)
    for name in ("zookeeper", "zookeeper-client"):
        _write_bundle(pki, name)
    return pki


def _write_service_account_keys(pki: Pki) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    _write_key(Path(pki.service_accounts), key)
    Path(pki.service_accounts_public).write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )


def _write_bundle(pki: Pki, name: str) -> None:
    path = Path(pki.bundle(name))
    path.touch(mode=0o600)
    path.write_bytes(Path(pki.key(name)).read_bytes() + Path(pki.cert(name)).read_bytes())


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


def _subject(common_name: str, organization: str = "") -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organization:
        parts.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(parts)


def _builder(subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _authority(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = _subject("local-cluster-ca")
    return (
        _builder(name, key)
        .issuer_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )


def _leaf(
    key: ec.EllipticCurvePrivateKey,
    subject: x509.Name,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    names = x509.SubjectAlternativeName(
        [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    )
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    return (
        _builder(subject, key)
        .issuer_name(authority.subject)
        .add_extension(names, critical=False)
        .add_extension(issuer, critical=False)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
