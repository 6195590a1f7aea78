"""Keyrings of the AWS Cryptographic Material Providers Library, and the integration tests of Encryption SDK 4."""

import os
import subprocess
from pathlib import Path

import aws_encryption_sdk
from aws_cryptographic_material_providers.mpl import AwsCryptographicMaterialProviders
from aws_cryptographic_material_providers.mpl.config import MaterialProvidersConfig
from aws_cryptographic_material_providers.mpl.models import CreateAwsKmsKeyringInput, CreateAwsKmsRsaKeyringInput
from aws_encryption_sdk.identifiers import AlgorithmSuite
from cryptography.hazmat.primitives import serialization

CONTEXT = {"purpose": "test"}


def providers():
    return AwsCryptographicMaterialProviders(config=MaterialProvidersConfig())


def test_a_kms_keyring_opens_what_it_sealed(session, key):
    client = aws_encryption_sdk.EncryptionSDKClient()
    keyring = providers().create_aws_kms_keyring(CreateAwsKmsKeyringInput(kms_key_id=key, kms_client=session.client("kms")))
    message, _ = client.encrypt(source=b"plain", keyring=keyring, encryption_context=CONTEXT)
    assert client.decrypt(source=message, keyring=keyring, encryption_context=CONTEXT)[0] == b"plain"


def test_an_rsa_keyring_seals_offline_and_the_kms_opens(session, kms):
    made = kms.create_key(KeySpec="RSA_3072", KeyUsage="ENCRYPT_DECRYPT")["KeyMetadata"]["Arn"]
    public = serialization.load_der_public_key(kms.get_public_key(KeyId=made)["PublicKey"])
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    client = aws_encryption_sdk.EncryptionSDKClient()
    parameters = {"public_key": pem, "kms_key_id": made, "encryption_algorithm": "RSAES_OAEP_SHA_256", "kms_client": session.client("kms")}
    keyring = providers().create_aws_kms_rsa_keyring(CreateAwsKmsRsaKeyringInput(**parameters))
    suite = AlgorithmSuite.AES_256_GCM_HKDF_SHA512_COMMIT_KEY
    message, _ = client.encrypt(source=b"plain", keyring=keyring, encryption_context=CONTEXT, algorithm=suite)
    assert client.decrypt(source=message, keyring=keyring, encryption_context=CONTEXT)[0] == b"plain"


def test_the_integration_tests_inside_of_the_source_package_pass(server, kms):
    first, second = (kms.create_key()["KeyMetadata"]["Arn"] for _ in range(2))
    name = "AWS_ENCRYPTION_SDK_PYTHON_INTEGRATION_TEST_AWS_KMS"
    keys = {f"{name}_KEY_ID": first, f"{name}_KEY_ID_2": second, f"{name}_MRK_KEY_ID_1": first, f"{name}_MRK_KEY_ID_2": second}
    # Known answers hold data keys that AWS itself wrapped; one test wants a made-up region to have no server.
    arguments = ["-q", "-p", "no:cacheprovider", "--tb=short", "test/integration", "--ignore=test/integration/test_kat_commitment.py", "-k", "not test_remove_bad_client"]
    root = Path(os.environ["KMSFS_SDISTS"]) / "aws_encryption_sdk-4.0.7"
    done = subprocess.run(["python3", "-m", "pytest", *arguments], cwd=root, env={**server.environment(), **keys}, capture_output=True, text=True, check=False, timeout=600)
    last = done.stdout.strip().splitlines()[-1]
    print(last)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert int(last.split(" passed")[0].split()[-1]) >= 40, last
