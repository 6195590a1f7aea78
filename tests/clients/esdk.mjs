// The AWS Encryption SDK and the AWS SDK for JavaScript: node esdk.mjs encrypt|decrypt|errors KEY [FROM TO]
import { readFileSync, writeFileSync } from 'node:fs'
import { buildClient, CommitmentPolicy, getClient, KMS, KmsKeyringNode } from '@aws-crypto/client-node'
import { CreateKeyCommand, DecryptCommand, DescribeKeyCommand, DisableKeyCommand, EncryptCommand, KMSClient } from '@aws-sdk/client-kms'

const [verb, key, from, to] = process.argv.slice(2)
const { encrypt, decrypt } = buildClient(CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT)
const clientProvider = getClient(KMS, {})
const keyring = new KmsKeyringNode({ clientProvider, generatorKeyId: key })

async function nameOf (call) {
  try {
    await call
    return 'no error'
  } catch (error) {
    return error.name
  }
}

async function errors () {
  const kms = new KMSClient({})
  const made = await kms.send(new EncryptCommand({ KeyId: key, Plaintext: Buffer.from('x'), EncryptionContext: { a: 'b' } }))
  const other = (await kms.send(new CreateKeyCommand({}))).KeyMetadata.KeyId
  await kms.send(new DisableKeyCommand({ KeyId: other }))
  return {
    absent: await nameOf(kms.send(new DescribeKeyCommand({ KeyId: '11111111-2222-4333-8444-555555555555' }))),
    context: await nameOf(kms.send(new DecryptCommand({ CiphertextBlob: made.CiphertextBlob }))),
    disabled: await nameOf(kms.send(new EncryptCommand({ KeyId: other, Plaintext: Buffer.from('x') })))
  }
}

let answer = {}
if (verb === 'encrypt') {
  const { result } = await encrypt(keyring, readFileSync(from), { encryptionContext: { purpose: 'javascript' } })
  writeFileSync(to, result)
} else if (verb === 'decrypt') {
  const { plaintext, messageHeader } = await decrypt(keyring, readFileSync(from))
  writeFileSync(to, plaintext)
  answer = { context: messageHeader.encryptionContext }
} else {
  answer = await errors()
}
console.log(JSON.stringify(answer))
