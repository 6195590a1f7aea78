"""Tink's envelope encryption under a key of the KMS."""

import pytest
import tink
from tink import aead
from tink.integration import awskms


def test_an_envelope_opens_with_its_associated_data(session, key):
    aead.register()
    client = awskms.new_client(boto3_client=session.client("kms"), key_uri=f"aws-kms://{key}")
    remote = client.get_aead(f"aws-kms://{key}")
    envelope = aead.KmsEnvelopeAead(aead.aead_key_templates.AES256_GCM, remote)
    message = envelope.encrypt(b"plain", b"data")
    assert envelope.decrypt(message, b"data") == b"plain"
    with pytest.raises(tink.TinkError):
        envelope.decrypt(message, b"other data")
    # Without an envelope the associated data is the encryption context.
    message = remote.encrypt(b"plain", b"data")
    assert remote.decrypt(message, b"data") == b"plain"
    with pytest.raises(tink.TinkError):
        remote.decrypt(message, b"other data")
