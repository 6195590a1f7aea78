"""The command line of AWS, with the profile that kmsfs printed and nothing else."""

import base64
import json


def aws(server, *arguments, user="kmsfs", fails=False):
    done = server.run("aws", *arguments, profile=user)
    assert (done.returncode != 0) == fails, done.stderr
    return done.stderr if fails else json.loads(done.stdout or "null")


def test_a_data_key_is_made_and_opened(server):
    key = aws(server, "kms", "create-key", "--description", "awscli")["KeyMetadata"]["KeyId"]
    made = aws(server, "kms", "generate-data-key", "--key-id", key, "--key-spec", "AES_256", "--encryption-context", "a=b,c=d")
    blob = server.base / "blob"
    blob.write_bytes(base64.b64decode(made["CiphertextBlob"]))
    opened = aws(server, "kms", "decrypt", "--ciphertext-blob", f"fileb://{blob}", "--encryption-context", "c=d,a=b")
    assert opened["Plaintext"] == made["Plaintext"]
    said = aws(server, "kms", "decrypt", "--ciphertext-blob", f"fileb://{blob}", "--encryption-context", "a=b", fails=True)
    assert "(InvalidCiphertextException)" in said


def test_another_user_is_another_principal_and_may_do_what_the_policy_says(server, other_user, kms):
    identity = aws(server, "sts", "get-caller-identity", user=other_user)
    assert identity["Arn"] == f"arn:aws:iam::000000000000:user/{other_user}"
    key = kms.create_key()["KeyMetadata"]["Arn"]
    said = aws(server, "kms", "encrypt", "--key-id", key, "--plaintext", "plain", user=other_user, fails=True)
    assert f"(AccessDeniedException) when calling the Encrypt operation: User: {identity['Arn']} is not authorized" in said
    kms.create_grant(KeyId=key, GranteePrincipal=identity["Arn"], Operations=["Encrypt"])
    made = aws(server, "kms", "encrypt", "--key-id", key, "--plaintext", "plain", user=other_user)
    assert kms.decrypt(CiphertextBlob=base64.b64decode(made["CiphertextBlob"]))["Plaintext"] == b"plain"
    aws(server, "kms", "disable-key", "--key-id", key, user=other_user, fails=True)


def test_credentials_of_one_user_are_not_anothers(server, other_user):
    mine = json.loads(server.run(server.binary, "credentials", "--unix", str(server.socket)).stdout)
    theirs = json.loads(server.run(server.binary, "credentials", "--unix", str(server.socket), user=other_user, group=other_user).stdout)
    assert set(mine) == {"Version", "AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration"}
    assert mine["AccessKeyId"] != theirs["AccessKeyId"] and mine["SecretAccessKey"] != theirs["SecretAccessKey"]


def test_the_owners_commands_go_through_the_server(server):
    made = json.loads(server.kmsfs("access-key", "create", "--user", "root", "--days", "1", "--json"))["AccessKey"]
    assert made["AccessKeyId"].startswith("AKIA") and "ExpirationDate" in made
    server.kmsfs("access-key", "delete", made["AccessKeyId"])
