"""The AWS Encryption SDK: Python, its command line and JavaScript read each other's messages."""

import json
import os
import subprocess
from pathlib import Path

import aws_encryption_sdk
import pytest
from aws_encryption_sdk import CachingCryptoMaterialsManager, LocalCryptoMaterialsCache
from aws_encryption_sdk.key_providers.kms import StrictAwsKmsMasterKeyProvider

HERE = Path(__file__).parent
CONTEXT = {"purpose": "test", "origin": "\u00e9"}
PLAIN = os.urandom(100_000)


def by_python(key, context=None):
    client = aws_encryption_sdk.EncryptionSDKClient()
    provider = StrictAwsKmsMasterKeyProvider(key_ids=[key])
    message, _ = client.encrypt(source=PLAIN, key_provider=provider, encryption_context=context or CONTEXT)
    return message


def opened_by_python(key, message):
    client = aws_encryption_sdk.EncryptionSDKClient()
    plain, header = client.decrypt(source=message, key_provider=StrictAwsKmsMasterKeyProvider(key_ids=[key]))
    return plain, header.encryption_context


def javascript(server, *arguments):
    modules = Path(os.environ["KMSFS_NODE_MODULES"])
    # Modules are looked for beside the file that wants them.
    script = server.base / "esdk.mjs"
    script.write_text((HERE / "esdk.mjs").read_text())
    link = server.base / "node_modules"
    if not link.exists():
        link.symlink_to(modules)
    done = server.run("node", str(script), *map(str, arguments))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def command(server, *arguments):
    done = server.run("aws-encryption-cli", *map(str, arguments))
    assert done.returncode == 0, done.stderr


def test_what_python_encrypts_the_command_line_decrypts_and_the_other_way(server, key):
    message, plain, back = server.base / "m1", server.base / "p1", server.base / "m2"
    message.write_bytes(by_python(key))
    command(server, "--decrypt", "-i", message, "-o", plain, "--wrapping-keys", f"key={key}", "-S", "--encryption-context", "purpose=test")
    assert plain.read_bytes() == PLAIN
    command(server, "--encrypt", "-i", plain, "-o", back, "--wrapping-keys", f"key={key}", "-S", "--encryption-context", "purpose=test")
    opened, context = opened_by_python(key, back.read_bytes())
    assert opened == PLAIN and context["purpose"] == "test"


def test_what_python_encrypts_javascript_decrypts_and_the_other_way(server, key):
    message, plain, back = server.base / "m3", server.base / "p3", server.base / "m4"
    message.write_bytes(by_python(key))
    answer = javascript(server, "decrypt", key, message, plain)
    assert plain.read_bytes() == PLAIN and answer["context"]["origin"] == CONTEXT["origin"]
    javascript(server, "encrypt", key, plain, back)
    opened, context = opened_by_python(key, back.read_bytes())
    assert opened == PLAIN and context["purpose"] == "javascript"


def test_the_javascript_client_sees_the_errors_of_aws(server, key):
    answer = javascript(server, "errors", key)
    assert answer == {"absent": "NotFoundException", "context": "InvalidCiphertextException", "disabled": "DisabledException"}


def test_the_caching_manager_of_the_sdk_works(key):
    client = aws_encryption_sdk.EncryptionSDKClient()
    provider = StrictAwsKmsMasterKeyProvider(key_ids=[key])
    manager = CachingCryptoMaterialsManager(master_key_provider=provider, cache=LocalCryptoMaterialsCache(10), max_age=60.0, max_messages_encrypted=10)
    for _ in range(3):
        message, _ = client.encrypt(source=b"cached", materials_manager=manager, encryption_context=CONTEXT)
        assert client.decrypt(source=message, materials_manager=manager)[0] == b"cached"


def test_a_message_for_two_keys_opens_with_either(kms, key):
    other = kms.create_key()["KeyMetadata"]["Arn"]
    client = aws_encryption_sdk.EncryptionSDKClient()
    message, _ = client.encrypt(source=b"two", key_provider=StrictAwsKmsMasterKeyProvider(key_ids=[key, other]))
    kms.disable_key(KeyId=key)
    assert client.decrypt(source=message, key_provider=StrictAwsKmsMasterKeyProvider(key_ids=[other]))[0] == b"two"


# Tests inside of the source packages that cannot pass anywhere but at AWS: they want a made-up region to have no server.
ONLY_AT_AWS = ["test_remove_bad_client"]


def source_package(server, key, kms, folder, ignored=()):
    """Runs the integration tests that the package brings."""
    root = Path(os.environ["KMSFS_SDISTS"]) / folder
    second = kms.create_key()["KeyMetadata"]["Arn"]
    name = "AWS_ENCRYPTION_SDK_PYTHON_INTEGRATION_TEST_AWS_KMS"
    keys = {f"{name}_KEY_ID": key, f"{name}_KEY_ID_2": second, f"{name}_MRK_KEY_ID_1": key, f"{name}_MRK_KEY_ID_2": second}
    arguments = ["-q", "-p", "no:cacheprovider", "--tb=short", "test/integration", *[f"--ignore={path}" for path in ignored]]
    skipped = " and ".join(f"not {test}" for test in ONLY_AT_AWS)
    return subprocess.run(
        ["python3", "-m", "pytest", *arguments, "-k", skipped],
        cwd=root, env={**server.environment(), **keys}, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip


@pytest.mark.parametrize("folder", ["aws_encryption_sdk-3.3.1", "aws_encryption_sdk_cli-4.3.0"])
def test_the_integration_tests_inside_of_the_source_package_pass(server, key, kms, folder):
    # Known answers hold data keys that AWS itself wrapped.
    ignored = ["test/integration/test_kat_commitment.py"]
    done = source_package(server, key, kms, folder, ignored)
    last = done.stdout.strip().splitlines()[-1]
    print(folder, last)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    passed = int(last.split(" passed")[0].split()[-1])
    assert passed >= {"aws_encryption_sdk-3.3.1": 40, "aws_encryption_sdk_cli-4.3.0": 60}[folder], last
