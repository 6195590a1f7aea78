"""Every operation through boto3, errors included, with its own checks of parameters off."""

import datetime
import json
import threading

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

ABSENT = "11111111-2222-4333-8444-555555555555"
USER_ARN = "arn:aws:iam::000000000000:user/{}"


def refused(code, call, *, says=None, **parameters):
    """The call fails with this code, as a 400; answers its message."""
    with pytest.raises(ClientError) as caught:
        call(**parameters)
    response = caught.value.response
    assert response["Error"]["Code"] == code, response
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 400
    if says is not None:
        assert says in response["Error"]["Message"], response
    return response["Error"]["Message"]


def test_a_key_has_the_metadata_of_aws(kms, key):
    made = kms.describe_key(KeyId=key)["KeyMetadata"]
    assert set(made) == {
        "AWSAccountId", "Arn", "CreationDate", "CurrentKeyMaterialId", "CustomerMasterKeySpec", "Description", "Enabled",
        "EncryptionAlgorithms", "KeyId", "KeyManager", "KeySpec", "KeyState", "KeyUsage", "MultiRegion", "Origin",
    }  # fmt: skip
    assert made["Arn"] == f"arn:aws:kms:us-west-2:000000000000:key/{made['KeyId']}"
    assert (made["KeyState"], made["KeyManager"], made["KeySpec"]) == ("Enabled", "CUSTOMER", "SYMMETRIC_DEFAULT")
    age = datetime.datetime.now(datetime.timezone.utc) - made["CreationDate"]
    assert abs(age.total_seconds()) < 300


def test_the_caller_is_told_by_sts_who_it_is(session):
    identity = session.client("sts").get_caller_identity()
    assert identity["Account"] == "000000000000"
    assert identity["Arn"] == "arn:aws:iam::000000000000:root"


def test_data_is_encrypted_and_decrypted_under_its_context(kms, key):
    for size in (1, 32, 4096):
        made = kms.encrypt(KeyId=key, Plaintext=b"p" * size, EncryptionContext={"a": "bc", "x": "\u00e9"})
        assert made["KeyId"] == key and len(made["CiphertextBlob"]) <= 6144
        opened = kms.decrypt(CiphertextBlob=made["CiphertextBlob"], EncryptionContext={"x": "\u00e9", "a": "bc"})
        assert opened["Plaintext"] == b"p" * size and opened["KeyId"] == key
        assert len(opened["KeyMaterialId"]) == 64
        for context in ({}, {"ab": "c", "x": "\u00e9"}, {"a": "bc", "x": "e\u0301"}, {"A": "bc", "x": "\u00e9"}, {"a": "bc"}):
            assert refused("InvalidCiphertextException", kms.decrypt, CiphertextBlob=made["CiphertextBlob"], EncryptionContext=context) == ""
    too_long = "1 validation error detected: Value at 'plaintext' failed to satisfy constraint: Member must have length less than or equal to 4096"
    refused("ValidationException", kms.encrypt, KeyId=key, Plaintext=b"p" * 4097, says=too_long)
    refused("ValidationException", kms.encrypt, KeyId=key, Plaintext=b"")


def test_a_damaged_or_foreign_blob_is_an_invalid_ciphertext(kms, key):
    blob = kms.encrypt(KeyId=key, Plaintext=b"secret")["CiphertextBlob"]
    for bad in (blob[:-1], blob + b"\0", blob[:1], b"AYADeJgn", bytes(200)):
        assert refused("InvalidCiphertextException", kms.decrypt, CiphertextBlob=bad) == ""
    refused("ValidationException", kms.decrypt, CiphertextBlob=bytes(6145))


def test_decrypt_keeps_to_the_key_that_it_is_given(kms, key):
    other = kms.create_key()["KeyMetadata"]["Arn"]
    blob = kms.encrypt(KeyId=key, Plaintext=b"secret")["CiphertextBlob"]
    assert kms.decrypt(CiphertextBlob=blob, KeyId=key)["Plaintext"] == b"secret"
    refused("IncorrectKeyException", kms.decrypt, CiphertextBlob=blob, KeyId=other, says="does not identify a CMK that can perform this operation")


def test_data_keys_come_in_every_size(kms, key):
    for size in ({"KeySpec": "AES_128"}, {"KeySpec": "AES_256"}, {"NumberOfBytes": 1}, {"NumberOfBytes": 1024}):
        made = kms.generate_data_key(KeyId=key, EncryptionContext={"a": "b"}, **size)
        length = size.get("NumberOfBytes", {"AES_128": 16, "AES_256": 32}.get(size.get("KeySpec")))
        assert len(made["Plaintext"]) == length
        assert kms.decrypt(CiphertextBlob=made["CiphertextBlob"], EncryptionContext={"a": "b"})["Plaintext"] == made["Plaintext"]
    without = kms.generate_data_key_without_plaintext(KeyId=key, KeySpec="AES_256")
    assert "Plaintext" not in without
    assert len(kms.decrypt(CiphertextBlob=without["CiphertextBlob"])["Plaintext"]) == 32
    for size in ({}, {"KeySpec": "AES_256", "NumberOfBytes": 32}):
        refused("ValidationException", kms.generate_data_key, KeyId=key, **size, says="Please specify either number of bytes or key spec.")
    for size in ({"NumberOfBytes": 1025}, {"NumberOfBytes": 0}, {"KeySpec": "AES_192"}):
        refused("ValidationException", kms.generate_data_key, KeyId=key, **size)


@pytest.mark.parametrize("spec", ["RSA_2048", "ECC_NIST_P256", "ECC_NIST_P384", "ECC_NIST_EDWARDS25519"])
def test_key_pairs_are_der(kms, key, spec):
    made = kms.generate_data_key_pair(KeyId=key, KeyPairSpec=spec)
    private = serialization.load_der_private_key(made["PrivateKeyPlaintext"], None)
    public = serialization.load_der_public_key(made["PublicKey"])
    kinds = {"RSA_2048": rsa.RSAPrivateKey, "ECC_NIST_P256": ec.EllipticCurvePrivateKey, "ECC_NIST_P384": ec.EllipticCurvePrivateKey}
    assert isinstance(private, kinds.get(spec, ed25519.Ed25519PrivateKey))
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert private.public_key().public_bytes(*form) == public.public_bytes(*form)
    assert kms.decrypt(CiphertextBlob=made["PrivateKeyCiphertextBlob"])["Plaintext"] == made["PrivateKeyPlaintext"]
    without = kms.generate_data_key_pair_without_plaintext(KeyId=key, KeyPairSpec=spec)
    assert "PrivateKeyPlaintext" not in without and without["KeyPairSpec"] == spec


def test_a_blob_is_re_encrypted_under_another_key_and_context(kms, key):
    other = kms.create_key()["KeyMetadata"]["Arn"]
    blob = kms.encrypt(KeyId=key, Plaintext=b"secret", EncryptionContext={"a": "1"})["CiphertextBlob"]
    moved = kms.re_encrypt(CiphertextBlob=blob, SourceEncryptionContext={"a": "1"}, DestinationKeyId=other, DestinationEncryptionContext={"b": "2"})
    assert (moved["SourceKeyId"], moved["KeyId"]) == (key, other)
    assert kms.decrypt(CiphertextBlob=moved["CiphertextBlob"], EncryptionContext={"b": "2"})["Plaintext"] == b"secret"
    refused("InvalidCiphertextException", kms.re_encrypt, CiphertextBlob=blob, DestinationKeyId=other)
    refused("IncorrectKeyException", kms.re_encrypt, CiphertextBlob=blob, SourceEncryptionContext={"a": "1"}, SourceKeyId=other, DestinationKeyId=other)


def test_random_bytes_have_the_length_that_was_asked_for(kms):
    assert len(kms.generate_random(NumberOfBytes=1024)["Plaintext"]) == 1024
    refused("ValidationException", kms.generate_random, says="NumberOfBytes is required.")
    refused("ValidationException", kms.generate_random, NumberOfBytes=1025)


def test_an_rsa_key_opens_what_was_encrypted_offline(kms):
    refused("ValidationException", kms.create_key, KeySpec="RSA_2048", says="You must specify a KeyUsage value")
    key = kms.create_key(KeySpec="RSA_2048", KeyUsage="ENCRYPT_DECRYPT")["KeyMetadata"]["Arn"]
    public = kms.get_public_key(KeyId=key)
    assert public["KeySpec"] == "RSA_2048"
    for name, digest in (("RSAES_OAEP_SHA_1", hashes.SHA1()), ("RSAES_OAEP_SHA_256", hashes.SHA256())):
        oaep = padding.OAEP(padding.MGF1(digest), digest, None)
        blob = serialization.load_der_public_key(public["PublicKey"]).encrypt(b"offline", oaep)
        assert kms.decrypt(KeyId=key, CiphertextBlob=blob, EncryptionAlgorithm=name)["Plaintext"] == b"offline"
        made = kms.encrypt(KeyId=key, Plaintext=b"online", EncryptionAlgorithm=name)
        assert kms.decrypt(KeyId=key, CiphertextBlob=made["CiphertextBlob"], EncryptionAlgorithm=name)["Plaintext"] == b"online"
    refused("UnsupportedOperationException", kms.enable_key_rotation, KeyId=key)
    refused("InvalidKeyUsageException", kms.generate_data_key, KeyId=key, KeySpec="AES_256")


def test_only_an_rsa_key_has_a_public_key(kms, key):
    refused("UnsupportedOperationException", kms.get_public_key, KeyId=key)


def test_a_dry_run_does_nothing_and_says_so(kms, key):
    blob = kms.encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    text = "The request would have succeeded, but the DryRun option is set."
    calls = [
        (kms.encrypt, {"KeyId": key, "Plaintext": b"x"}),
        (kms.decrypt, {"CiphertextBlob": blob}),
        (kms.generate_data_key, {"KeyId": key, "KeySpec": "AES_256"}),
        (kms.generate_data_key_without_plaintext, {"KeyId": key, "KeySpec": "AES_256"}),
        (kms.re_encrypt, {"CiphertextBlob": blob, "DestinationKeyId": key}),
        (kms.create_grant, {"KeyId": key, "GranteePrincipal": USER_ARN.format("tests"), "Operations": ["Decrypt"]}),
    ]
    for call, parameters in calls:
        refused("DryRunOperationException", call, **parameters, DryRun=True, says=text)
    assert kms.list_grants(KeyId=key)["Grants"] == []


def test_a_disabled_key_refuses_and_an_enabled_one_works_again(kms, key):
    blob = kms.encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    kms.disable_key(KeyId=key)
    kms.disable_key(KeyId=key)
    assert kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "Disabled"
    for call, parameters in [(kms.encrypt, {"KeyId": key, "Plaintext": b"x"}), (kms.decrypt, {"CiphertextBlob": blob}), (kms.enable_key_rotation, {"KeyId": key})]:
        refused("DisabledException", call, **parameters, says=f"{key} is disabled.")
    kms.enable_key(KeyId=key)
    assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"


def test_a_deletion_is_scheduled_and_cancelled(kms, key):
    for days in (6, 31):
        refused("ValidationException", kms.schedule_key_deletion, KeyId=key, PendingWindowInDays=days)
    done = kms.schedule_key_deletion(KeyId=key, PendingWindowInDays=7)
    assert (done["KeyId"], done["KeyState"], done["PendingWindowInDays"]) == (key, "PendingDeletion", 7)
    assert kms.describe_key(KeyId=key)["KeyMetadata"]["DeletionDate"] == done["DeletionDate"]
    refused("KMSInvalidStateException", kms.encrypt, KeyId=key, Plaintext=b"x", says=f"{key} is pending deletion.")
    refused("KMSInvalidStateException", kms.schedule_key_deletion, KeyId=key)
    refused("KMSInvalidStateException", kms.enable_key, KeyId=key)
    assert kms.cancel_key_deletion(KeyId=key)["KeyId"] == key
    assert kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "Disabled"
    refused("KMSInvalidStateException", kms.cancel_key_deletion, KeyId=key)


def test_aliases_are_made_moved_listed_and_deleted(kms, key):
    other = kms.create_key()["KeyMetadata"]["KeyId"]
    kms.create_alias(AliasName="alias/clients/one", TargetKeyId=key)
    refused("AlreadyExistsException", kms.create_alias, AliasName="alias/clients/one", TargetKeyId=key)
    refused("ValidationException", kms.create_alias, AliasName="clients/one", TargetKeyId=key, says='Alias must start with the prefix "alias/".')
    refused("NotAuthorizedException", kms.create_alias, AliasName="alias/aws/x", TargetKeyId=key)
    blob = kms.encrypt(KeyId="alias/clients/one", Plaintext=b"x")["CiphertextBlob"]
    kms.update_alias(AliasName="alias/clients/one", TargetKeyId=other)
    assert kms.describe_key(KeyId="alias/clients/one")["KeyMetadata"]["KeyId"] == other
    assert kms.decrypt(CiphertextBlob=blob)["KeyId"] == key
    refused("IncorrectKeyException", kms.decrypt, CiphertextBlob=blob, KeyId="alias/clients/one")
    listed = [alias for alias in kms.list_aliases(KeyId=other)["Aliases"] if alias["AliasName"] == "alias/clients/one"]
    assert listed[0]["AliasArn"] == "arn:aws:kms:us-west-2:000000000000:alias/clients/one" and listed[0]["TargetKeyId"] == other
    refused("NotFoundException", kms.disable_key, KeyId="alias/clients/one", says="Invalid keyId")
    kms.delete_alias(AliasName="alias/clients/one")
    refused("NotFoundException", kms.describe_key, KeyId="alias/clients/one")


def test_what_is_not_there_is_not_found(kms):
    arn = f"arn:aws:kms:us-west-2:000000000000:key/{ABSENT}"
    refused("NotFoundException", kms.describe_key, KeyId=ABSENT, says=f"Key '{arn}' does not exist")
    refused("NotFoundException", kms.describe_key, KeyId="x", says="Invalid keyId 'x'")
    refused("NotFoundException", kms.describe_key, KeyId=f"arn:aws:kms:eu-west-1:000000000000:key/{ABSENT}", says="Invalid arn eu-west-1")


def test_keys_are_listed_in_pages(kms):
    made = {kms.create_key()["KeyMetadata"]["KeyId"] for _ in range(5)}
    listed = [key for page in kms.get_paginator("list_keys").paginate(PaginationConfig={"PageSize": 2}) for key in page["Keys"]]
    ids = [key["KeyId"] for key in listed]
    assert made <= set(ids) and len(ids) == len(set(ids))
    assert all(key["KeyArn"].endswith(key["KeyId"]) for key in listed)
    refused("InvalidMarkerException", kms.list_keys, Marker="nowhere")
    for limit in (0, 1001):
        refused("ValidationException", kms.list_keys, Limit=limit)


def test_descriptions_and_tags_are_kept(kms):
    key = kms.create_key(Description="one", Tags=[{"TagKey": "team", "TagValue": "blue"}])["KeyMetadata"]
    kms.update_key_description(KeyId=key["KeyId"], Description="two")
    assert kms.describe_key(KeyId=key["KeyId"])["KeyMetadata"]["Description"] == "two"
    kms.tag_resource(KeyId=key["KeyId"], Tags=[{"TagKey": "a", "TagValue": "b"}])
    kms.untag_resource(KeyId=key["KeyId"], TagKeys=["team"])
    assert kms.list_resource_tags(KeyId=key["KeyId"])["Tags"] == [{"TagKey": "a", "TagValue": "b"}]
    twice = [{"TagKey": "a", "TagValue": "b"}] * 2
    refused("TagException", kms.tag_resource, KeyId=key["KeyId"], Tags=twice, says="Duplicate tag keys")
    refused("TagException", kms.tag_resource, KeyId=key["KeyId"], Tags=[{"TagKey": "aws:x", "TagValue": "b"}])


def test_rotation_makes_new_material_and_keeps_the_old(kms, key):
    blob = kms.encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    first = kms.describe_key(KeyId=key)["KeyMetadata"]["CurrentKeyMaterialId"]
    assert kms.get_key_rotation_status(KeyId=key)["KeyRotationEnabled"] is False
    for days in (89, 2561):
        refused("ValidationException", kms.enable_key_rotation, KeyId=key, RotationPeriodInDays=days)
    kms.enable_key_rotation(KeyId=key, RotationPeriodInDays=90)
    status = kms.get_key_rotation_status(KeyId=key)
    assert status["KeyRotationEnabled"] and status["RotationPeriodInDays"] == 90 and "NextRotationDate" in status
    kms.disable_key_rotation(KeyId=key)
    for _ in range(25):
        assert kms.rotate_key_on_demand(KeyId=key)["KeyId"] == key
    refused("LimitExceededException", kms.rotate_key_on_demand, KeyId=key, says="The on-demand rotations limit has been reached")
    second = kms.describe_key(KeyId=key)["KeyMetadata"]["CurrentKeyMaterialId"]
    opened = kms.decrypt(CiphertextBlob=blob)
    assert (opened["Plaintext"], opened["KeyMaterialId"]) == (b"x", first) and first != second
    rotations = kms.list_key_rotations(KeyId=key)["Rotations"]
    assert len(rotations) == 25 and {one["RotationType"] for one in rotations} == {"ON_DEMAND"}
    everything = kms.list_key_rotations(KeyId=key, IncludeKeyMaterial="ALL_KEY_MATERIAL")["Rotations"]
    assert len(everything) == 26 and [one["KeyMaterialState"] for one in everything].count("CURRENT") == 1


def test_policies_are_put_got_and_checked(kms, key):
    policy = json.loads(kms.get_key_policy(KeyId=key)["Policy"])
    assert policy["Statement"][0]["Principal"] == {"AWS": "arn:aws:iam::000000000000:root"}
    assert kms.list_key_policies(KeyId=key)["PolicyNames"] == ["default"]
    policy["Statement"].append({"Sid": "more", "Effect": "Allow", "Principal": {"AWS": USER_ARN.format("tests")}, "Action": "kms:Decrypt", "Resource": "*"})
    kms.put_key_policy(KeyId=key, PolicyName="default", Policy=json.dumps(policy))
    assert json.loads(kms.get_key_policy(KeyId=key, PolicyName="default")["Policy"]) == policy
    for bad in ("{", "[]", '{"Statement":[{"Effect":"Allow","Action":"kms:*","Resource":"*"}]}'):
        refused("MalformedPolicyDocumentException", kms.put_key_policy, KeyId=key, Policy=bad)
    locked_out = '{"Version":"2012-10-17","Statement":[]}'
    refused("MalformedPolicyDocumentException", kms.put_key_policy, KeyId=key, Policy=locked_out)
    refused("NotFoundException", kms.get_key_policy, KeyId=key, PolicyName="other", says="No such policy exists")


def test_grants_are_made_listed_retired_and_revoked(kms, key):
    grantee = USER_ARN.format("tests")
    parameters = {"KeyId": key, "GranteePrincipal": grantee, "Operations": ["Decrypt"], "Name": "one", "RetiringPrincipal": grantee,
                  "Constraints": {"EncryptionContextSubset": {"a": "b"}}}  # fmt: skip
    first, again = kms.create_grant(**parameters), kms.create_grant(**parameters)
    assert first["GrantId"] == again["GrantId"]
    listed = kms.list_grants(KeyId=key)["Grants"]
    assert [(one["GrantId"], one["Name"], one["GranteePrincipal"]) for one in listed] == [(first["GrantId"], "one", grantee)]
    assert listed[0]["Constraints"] == {"EncryptionContextSubset": {"a": "b"}} and "GrantToken" not in listed[0]
    assert first["GrantId"] in [one["GrantId"] for one in kms.list_retirable_grants(RetiringPrincipal=grantee)["Grants"]]
    kms.retire_grant(GrantToken=again["GrantToken"])
    second = kms.create_grant(KeyId=key, GranteePrincipal=grantee, Operations=["Encrypt"])
    kms.revoke_grant(KeyId=key, GrantId=second["GrantId"])
    assert kms.list_grants(KeyId=key)["Grants"] == []
    refused("NotFoundException", kms.revoke_grant, KeyId=key, GrantId=second["GrantId"])
    refused("ValidationException", kms.create_grant, KeyId=key, GranteePrincipal=grantee, Operations=["Sign"])
    refused("InvalidGrantTokenException", kms.encrypt, KeyId=key, Plaintext=b"x", GrantTokens=["nonsense"])


def test_what_is_not_served_says_so(kms, key):
    refused("UnsupportedOperationException", kms.sign, KeyId=key, Message=b"m", SigningAlgorithm="RSASSA_PSS_SHA_256")
    refused("UnsupportedOperationException", kms.generate_mac, KeyId=key, Message=b"m", MacAlgorithm="HMAC_SHA_256")
    refused("UnsupportedOperationException", kms.create_custom_key_store, CustomKeyStoreName="x")


def test_a_wrong_secret_and_an_unknown_access_key_are_refused(session, kms):
    good = session.get_credentials().get_frozen_credentials()
    cases = [
        ("InvalidSignatureException", {"aws_access_key_id": good.access_key, "aws_secret_access_key": "wrong", "aws_session_token": good.token}),
        ("UnrecognizedClientException", {"aws_access_key_id": good.access_key, "aws_secret_access_key": good.secret_key}),
        ("UnrecognizedClientException", {"aws_access_key_id": "AKIAIOSFODNN7EXAMPLE", "aws_secret_access_key": "x"}),
    ]
    for code, credentials in cases:
        client = boto3.Session(**credentials).client("kms", region_name="us-west-2", endpoint_url=kms.meta.endpoint_url)
        refused(code, client.list_keys)
        sts = boto3.Session(**credentials).client("sts", region_name="us-west-2", endpoint_url=kms.meta.endpoint_url)
        with pytest.raises(ClientError) as caught:
            sts.get_caller_identity()
        expected = {"InvalidSignatureException": "SignatureDoesNotMatch", "UnrecognizedClientException": "InvalidClientTokenId"}
        assert caught.value.response["Error"]["Code"] == expected[code]
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


def test_a_long_lived_access_key_works_until_it_is_deleted(server, kms):
    made = json.loads(server.kmsfs("access-key", "create", "--json"))["AccessKey"]
    session = boto3.Session(aws_access_key_id=made["AccessKeyId"], aws_secret_access_key=made["SecretAccessKey"])
    client = session.client("kms", region_name="eu-central-1", endpoint_url=server.url)
    assert client.create_key()["KeyMetadata"]["Arn"].startswith("arn:aws:kms:eu-central-1:")
    assert made["AccessKeyId"] in server.kmsfs("access-key", "list")
    assert made["SecretAccessKey"] not in server.kmsfs("access-key", "list", "--json")
    server.kmsfs("access-key", "delete", made["AccessKeyId"])
    refused("UnrecognizedClientException", client.list_keys)


def test_changes_in_a_loop_and_from_many_threads_are_no_replays(session, kms):
    before = sum(len(page["Keys"]) for page in kms.get_paginator("list_keys").paginate())
    began = datetime.datetime.now()
    for _ in range(30):
        kms.create_key()
    assert (datetime.datetime.now() - began).total_seconds() < 30
    failures = []
    # Equal requests of one second on several connections have one signature: each but the first is signed again, a second later.
    patient = session.client("kms", config=Config(retries={"mode": "standard", "max_attempts": 15}, max_pool_connections=32))

    def make():
        try:
            patient.create_key()
        except ClientError as error:
            failures.append(error)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sum(len(page["Keys"]) for page in kms.get_paginator("list_keys").paginate()) == before + 38


def test_a_client_with_its_own_checks_finds_nothing_wrong_with_the_answers(session, key):
    """Answers are parsed by the model of the service; what it does not know would be dropped."""
    kms = session.client("kms", config=Config(parameter_validation=True))
    assert kms.describe_key(KeyId=key)["KeyMetadata"]["Arn"] == key
    assert kms.generate_data_key(KeyId=key, KeySpec="AES_256")["KeyId"] == key
