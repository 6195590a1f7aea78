//! Every derivation, on one page. Nothing else in the project calls HKDF or HMAC.
//!
//! All are HKDF-Expand with SHA-256 (RFC 5869 section 2.3); Extract is skipped because every
//! parent is a uniform 256-bit key, as RFC 5869 section 3.3 allows. `info` is
//! `"kmsfs1 " | label | 0x00 | context`, and each context has one fixed length, so no two
//! labels can meet.
//!
//! | parent | label | context | bytes | what it keys |
//! |---|---|---|---|---|
//! | file data key | `com` | - | 32 | commitment in META |
//! | file data key | `grp` | group u64 LE, salt 16 | 64 | block key, META key of one group |
//! | file or directory data key | `xat` | - | 64 | SIV key for xattr names |
//! | file or directory data key | `xav` | - | 32 | GCM key for xattr values |
//! | file data key | `xts` | scope u64 LE | 64 | XTS key pair of one TiB |
//! | file data key | `xtt` | scope u64 LE | 32 | tail key of the same TiB |
//! | file data key | `fid` | - | 16 | id of an XTS file |
//! | directory data key | `did` | - | 16 | the directory's id |
//! | directory data key | `nam` | - | 64 | SIV key for names |
//! | directory data key | `lng` | - | 32 | HMAC key for long names |
//! | volume data key | `lnk` | - | 32 | GCM key for symlink targets |
//! | key material version | `wrap` | nonce 12, SHA-256 of the context | 32 | GCM key of one blob |
//! | key material version | `pair` | - | 32 | GCM key of the private key of an asymmetric CMK |
//! | slot secret | `slot` | slot salt 16 | 64 | key-encryption key, commitment |
//! | keystore root key | `store` | - | 32 | GCM key for keystore records |
//! | keystore root key | `bundle` | - | 32 | GCM key for the bundle |
//! | keystore root key | `grant` | - | 32 | HMAC key for grant tokens |
//! | keystore root key | `akey` | - | 32 | HMAC key for the secrets of access keys |
//! | keystore root key | `sess` | - | 32 | HMAC key for short-lived credentials |
//! | keystore root key | `audit` | - | 32 | HMAC key for the lines of the audit log |
//! | keystore root key | `anchor` | - | 32 | HMAC key for the files beside the audit log |
//!
//! Beside them stands the signing key of AWS Signature Version 4 ([`sigv4_key`]), a chain of HMACs that AWS prescribes.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use super::aead::{GcmKey, Nonce, hkdf_expand};
use super::siv::{SivKey, SivProbe};
use super::tail::TailKey;
use super::{DataKey, Secret};

fn expand<const N: usize>(parent: &[u8; 32], label: &str, context: &[&[u8]]) -> Secret<N> {
    let mut info: Vec<&[u8]> = vec![b"kmsfs1 ", label.as_bytes(), b"\0"];
    info.extend_from_slice(context);
    Secret::build(|out| hkdf_expand(parent, &info, out))
}

fn gcm(parent: &[u8; 32], label: &str, context: &[&[u8]]) -> GcmKey {
    GcmKey::new(expand::<32>(parent, label, context).expose())
}

/// Splits 64 derived bytes into two keys.
fn halves(both: &Secret<64>) -> (&[u8; 32], &[u8; 32]) {
    let (first, second) = both.expose().split_first_chunk::<32>().expect("64 bytes have a first half");
    (first, second.try_into().expect("64 bytes have a second half"))
}

/// The commitment to a file's data key that META page 0 carries: GCM alone does not commit to its key.
pub fn commitment(file: &DataKey) -> [u8; 32] {
    *expand::<32>(file.expose(), "com", &[]).expose()
}

/// The keys of one group of blocks under one salt.
pub struct GroupKeys {
    /// Seals content blocks, or the content of an inline file.
    pub block: GcmKey,
    /// Authenticates the group's META page.
    pub meta: GcmKey,
}

/// The keys of group `group` under `salt`.
pub fn group_keys(file: &DataKey, group: u64, salt: &[u8; 16]) -> GroupKeys {
    let both = expand::<64>(file.expose(), "grp", &[&group.to_le_bytes(), salt]);
    let (block, meta) = halves(&both);
    GroupKeys { block: GcmKey::new(block), meta: GcmKey::new(meta) }
}

/// The key for the names of a file's or directory's extended attributes.
pub fn xattr_name_key(owner: &DataKey) -> SivKey {
    SivKey::new(&expand(owner.expose(), "xat", &[]))
}

/// The key for the values of a file's or directory's extended attributes.
pub fn xattr_value_key(owner: &DataKey) -> GcmKey {
    gcm(owner.expose(), "xav", &[])
}

/// The XTS key pair for the `scope`-th TiB of a file.
pub fn xts_keys(file: &DataKey, scope: u64) -> Secret<64> {
    expand(file.expose(), "xts", &[&scope.to_le_bytes()])
}

/// The key for a tail of 1 to 15 bytes in the `scope`-th TiB of a file.
pub fn tail_key(file: &DataKey, scope: u64) -> TailKey {
    TailKey::new(&expand(file.expose(), "xtt", &[&scope.to_le_bytes()]))
}

/// The id of a file. It is not secret.
pub fn file_id(file: &DataKey) -> [u8; 16] {
    *expand::<16>(file.expose(), "fid", &[]).expose()
}

/// The id of a directory. It is not secret: it stands in encryption contexts.
pub fn directory_id(directory: &DataKey) -> [u8; 16] {
    *expand::<16>(directory.expose(), "did", &[]).expose()
}

/// The key for the names in a directory.
pub fn name_key(directory: &DataKey) -> SivKey {
    SivKey::new(&expand(directory.expose(), "nam", &[]))
}

/// A probe of [`name_key`].
pub fn name_probe(directory: &DataKey) -> SivProbe {
    SivProbe::new(&expand(directory.expose(), "nam", &[]))
}

/// The key that hashes the long names in a directory.
pub fn long_name_key(directory: &DataKey) -> Secret<32> {
    expand(directory.expose(), "lng", &[])
}

/// HMAC-SHA-256 (RFC 2104) of a long name.
pub fn hash_long_name(key: &Secret<32>, name: &[u8]) -> [u8; 32] {
    hmac(key, &[name])
}

/// HMAC-SHA-256 over the concatenation of `parts`, which the caller must make unambiguous.
pub fn hmac(key: &Secret<32>, parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.expose()).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// SHA-256 (FIPS 180-4).
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// The id of a place: the name `stored` in the directory with this id. For XTS files, which cannot say whose they are.
pub fn place_id(directory: &[u8; 16], stored: &[u8]) -> [u8; 16] {
    let mut hash = Sha256::new();
    hash.update(b"kmsfs1 plc\0");
    hash.update(directory);
    hash.update(stored);
    let hash: [u8; 32] = hash.finalize().into();
    *hash.first_chunk().expect("32 bytes begin with 16")
}

/// The key for the targets of a volume's symlinks.
pub fn symlink_key(volume: &DataKey) -> GcmKey {
    gcm(volume.expose(), "lnk", &[])
}

/// The key of one CiphertextBlob. A key for each blob lifts GCM's limit of 2^32 random nonces per
/// key (SP 800-38D section 8.3), as AWS KMS does (Campagna and Gueron, Cryptography 2019 3(3):23).
pub fn wrap_key(material: &Secret<32>, nonce: &Nonce, context: &[u8]) -> GcmKey {
    gcm(material.expose(), "wrap", &[nonce, &sha256(context)])
}

/// The key that seals the private key of an asymmetric CMK.
pub fn pair_key(material: &Secret<32>) -> GcmKey {
    gcm(material.expose(), "pair", &[])
}

/// What an unlock slot derives from its secret: the key-encryption key, and a commitment to it.
pub fn slot_keys(secret: &Secret<32>, salt: &[u8; 16]) -> (GcmKey, [u8; 32]) {
    let both = expand::<64>(secret.expose(), "slot", &[salt]);
    let (kek, commitment) = halves(&both);
    (GcmKey::new(kek), *commitment)
}

/// The key for the records of a keystore.
pub fn store_key(root: &Secret<32>) -> GcmKey {
    gcm(root.expose(), "store", &[])
}

/// The key for the mirror of a keystore.
pub fn bundle_key(root: &Secret<32>) -> GcmKey {
    gcm(root.expose(), "bundle", &[])
}

/// The key from which the secrets of long-lived access keys are made.
pub fn access_key_key(root: &Secret<32>) -> Secret<32> {
    expand(root.expose(), "akey", &[])
}

/// The key from which short-lived credentials are made.
pub fn session_key(root: &Secret<32>) -> Secret<32> {
    expand(root.expose(), "sess", &[])
}

/// The signing key of AWS Signature Version 4 for one day, region and service (AWS general reference, "Derive a signing
/// key for Signature Version 4"). The secret is text of any length.
pub fn sigv4_key(secret: &[u8], date: &str, region: &str, service: &str) -> Secret<32> {
    let prefixed = Zeroizing::new([b"AWS4", secret].concat());
    let mut mac = Hmac::<Sha256>::new_from_slice(&prefixed).expect("HMAC takes keys of any length");
    mac.update(date.as_bytes());
    let mut first = mac.finalize().into_bytes();
    let by_date = Secret::build(|out| out.copy_from_slice(&first));
    first.as_mut_slice().zeroize();
    [region, service, "aws4_request"].iter().fold(by_date, |key, part| {
        let next = Zeroizing::new(hmac(&key, &[part.as_bytes()]));
        Secret::build(|out| out.copy_from_slice(&*next))
    })
}

/// The HMAC key for the grant tokens of a keystore.
pub fn grant_token_key(root: &Secret<32>) -> Secret<32> {
    expand(root.expose(), "grant", &[])
}

/// The key that chains the lines of the audit log.
pub fn audit_line_key(root: &Secret<32>) -> Secret<32> {
    expand(root.expose(), "audit", &[])
}

/// The key that seals the files beside the audit log.
pub fn audit_anchor_key(root: &Secret<32>) -> Secret<32> {
    expand(root.expose(), "anchor", &[])
}
