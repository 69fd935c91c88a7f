"""Certificate authorities, and certificates of clients and servers."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID, ObjectIdentifier

from tests.support.pulp import unique

NOW = datetime.now(UTC)
DAY = timedelta(days=1)


class Authority:
    """A new certificate authority."""

    def __init__(self) -> None:
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, unique("ca"))])
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.pem = pem(self._builder(self.name, self.key).sign(self.key, hashes.SHA256()))

    def _builder(self, name: x509.Name, key: Any, until: datetime = NOW + DAY) -> Any:
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - 2 * DAY)
            .not_valid_after(until)
            .add_extension(x509.BasicConstraints(name == self.name, None), critical=True)
        )

    def issue(self, until: datetime = NOW + DAY, **extensions: bytes) -> str:
        """Return a client's certificate as PEM."""
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "client")])
        builder = self._builder(name, ec.generate_private_key(ec.SECP256R1()), until)
        for identifier, value in extensions.items():
            extension = x509.UnrecognizedExtension(ObjectIdentifier(identifier), value)
            builder = builder.add_extension(extension, critical=False)
        return pem(builder.sign(self.key, hashes.SHA256()))

    def pair(self) -> tuple[str, str]:
        """Return a certificate for this machine as client and server, and its key, as PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        address = x509.IPAddress(ip_address("127.0.0.1"))
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = (
            self._builder(name, key)
            .add_extension(x509.SubjectAlternativeName([address]), critical=False)
            .add_extension(identifier, critical=False)
        )
        plain = serialization.NoEncryption()
        encoded = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain
        )
        return pem(builder.sign(self.key, hashes.SHA256())), encoded.decode()


def pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
