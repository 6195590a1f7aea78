"""TLS, with a certificate that the client knows."""

import datetime
import http.client
import ipaddress
import json
import shutil
import tempfile
import urllib.request
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import SSLError
from conftest import Server
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


def certificate(folder, name):
    """A certificate for 127.0.0.1 that signed itself: its file and that of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / f"{name}.pem", folder / f"{name}.key"
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    files[1].write_bytes(key.private_bytes(*form))
    files[1].chmod(0o600)
    return files


@pytest.fixture
def secure():
    base = Path(tempfile.mkdtemp(prefix="kmsfs-tls-"))
    one = Server(base)
    one.certificate, key = certificate(base, "good")
    one.start("--tls-cert", str(one.certificate), "--tls-key", str(key))
    yield one
    one.stop()
    shutil.rmtree(base)


def test_a_client_that_knows_the_certificate_is_answered_and_others_hang_up(secure):
    assert secure.url.startswith("https://127.0.0.1:")
    made = json.loads(secure.kmsfs("access-key", "create", "--json"))["AccessKey"]
    session = boto3.Session(aws_access_key_id=made["AccessKeyId"], aws_secret_access_key=made["SecretAccessKey"], region_name="local")
    kms = session.client("kms", endpoint_url=secure.url, verify=str(secure.certificate))
    key = kms.create_key()["KeyMetadata"]["KeyId"]
    blob = kms.encrypt(KeyId=key, Plaintext=b"over tls")["CiphertextBlob"]
    assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"over tls"
    other, _ = certificate(secure.base, "other")
    with pytest.raises(SSLError):
        session.client("kms", endpoint_url=secure.url, verify=str(other)).list_keys()
    with pytest.raises((OSError, http.client.HTTPException)):
        urllib.request.urlopen(secure.url.replace("https", "http"), timeout=5)
