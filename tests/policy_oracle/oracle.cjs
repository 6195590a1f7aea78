// Reads one JSON object a line, {policy, principal, root, action, resource, account, context}, and answers each with a line:
// Allowed, ImplicitlyDenied, ExplicitlyDenied, or what went wrong. The root of the account has an identity policy that allows
// everything and users have none: so what a key policy delegates to the account is for its root alone, as in kmsfs.
//
// The core of iam-simulate is called, not its runSimulation, which drops kms:EncryptionContext:KEY from requests, nor its
// runUnsafeSimulation, which cannot take a resource policy.
'use strict'
const path = require('node:path')
const readline = require('node:readline')
const simulate = path.dirname(require.resolve('@cloud-copilot/iam-simulate'))
const inside = (file) => require(path.join(simulate, file))
const { authorize } = inside('core_engine/CoreSimulatorEngine.js')
const { AwsRequestImpl } = inside('request/request.js')
const { RequestContextImpl } = inside('requestContext.js')
const { DiscoveryContextKeyConstraints } = inside('context_keys/discoveryContextKeyConstraints.js')
const { loadPolicy } = require('@cloud-copilot/iam-policy')

const everything = loadPolicy(
  { Version: '2012-10-17', Statement: [{ Effect: 'Allow', Action: '*', Resource: '*' }] },
  { name: 'everything' }
)

function decide(line) {
  const { policy, principal, root, action, resource, account, context } = JSON.parse(line)
  const analysis = authorize({
    request: new AwsRequestImpl(principal, { resource, accountId: account }, action, new RequestContextImpl(context)),
    sessionPolicy: undefined,
    identityPolicies: root ? [everything] : [],
    serviceControlPolicies: [],
    resourceControlPolicies: [{ orgIdentifier: 'organization', policies: [everything] }],
    resourcePolicy: loadPolicy(policy, { name: 'key policy' }),
    permissionBoundaries: undefined,
    vpcEndpointPolicies: undefined,
    simulationParameters: {
      simulationMode: 'Strict',
      discoveryContextKeyConstraints: new DiscoveryContextKeyConstraints([])
    },
    serviceSettings: { s3: {} }
  })
  return analysis.result
}

readline.createInterface({ input: process.stdin }).on('line', (line) => {
  let answer
  try {
    answer = decide(line)
  } catch (error) {
    answer = `error: ${String(error.stack).replaceAll('\n', ' ')}`
  }
  process.stdout.write(`${answer}\n`)
})
