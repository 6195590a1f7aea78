//! A KMS of a few lines with the blob of docs/format.md section 3.

use parking_lot::Mutex;

use crate::crypto::derive::wrap_key;
use crate::crypto::{DataKey, Secret, random};
use crate::kms::{
    Action, Caller, CiphertextBlob, EncryptionContext, InvalidCiphertext, KeyId, KeyOrigin, KeystoreError, Kms,
    KmsError, Requester, UserRequest,
};

/// The CMK with number `n` is called "cmk-n"; its newest version is a switch.
pub struct FakeKms {
    seed: u8,
    version: Mutex<u16>,
    pub disabled: Mutex<bool>,
}

impl FakeKms {
    pub fn new(seed: u8) -> Self {
        Self { seed, version: Mutex::new(1), disabled: Mutex::new(false) }
    }

    pub fn rotate(&self) {
        *self.version.lock() += 1;
    }

    pub fn material(&self, number: u32, version: u16) -> Secret<32> {
        let id = [&[self.seed], &number.to_le_bytes()[..], &version.to_le_bytes()].concat();
        Secret::build(|out| out.copy_from_slice(&crate::crypto::derive::sha256(&id)))
    }

    fn wrap(&self, number: u32, key: &DataKey, context: &EncryptionContext) -> CiphertextBlob {
        let version = *self.version.lock();
        let nonce = random::array();
        let mut blob = [&[1], &number.to_le_bytes()[..], &version.to_le_bytes(), &nonce].concat();
        let aad = [&blob[..7], context.canonical()].concat();
        let mut sealed = [0; 32];
        let gcm = wrap_key(&self.material(number, version), &nonce, context.canonical());
        let tag = gcm.seal(&nonce, &aad, key.expose(), &mut sealed);
        blob.extend_from_slice(&sealed);
        blob.extend_from_slice(&tag);
        CiphertextBlob(blob)
    }
}

fn number(key: &KeyId) -> Result<u32, KmsError> {
    let number = key.0.strip_prefix("cmk-").and_then(|number| number.parse().ok());
    number.ok_or_else(|| KmsError::NotFound(key.0.clone()))
}

impl Kms for FakeKms {
    fn generate_data_key(
        &self,
        _: Requester<'_>,
        key: &KeyId,
        context: &EncryptionContext,
    ) -> Result<(DataKey, CiphertextBlob), KmsError> {
        let data_key = DataKey::random();
        let blob = self.wrap(number(key)?, &data_key, context);
        Ok((data_key, blob))
    }

    fn decrypt(&self, _: Requester<'_>, blob: &[u8], context: &EncryptionContext) -> Result<DataKey, KmsError> {
        if *self.disabled.lock() {
            return Err(KmsError::Disabled("cmk".into()));
        }
        let malformed = KmsError::InvalidCiphertext(InvalidCiphertext::Malformed);
        let blob: &[u8; 67] = blob.try_into().map_err(|_| malformed)?;
        let number = u32::from_le_bytes(blob[1..5].try_into().unwrap());
        let version = u16::from_le_bytes(blob[5..7].try_into().unwrap());
        if number > 9 {
            return Err(KmsError::InvalidCiphertext(InvalidCiphertext::UnknownKey(number)));
        }
        let nonce = blob[7..19].try_into().unwrap();
        let gcm = wrap_key(&self.material(number, version), nonce, context.canonical());
        let aad = [&blob[..7], context.canonical()].concat();
        let mut failed = false;
        let key = Secret::build(|out| {
            failed = gcm.open(nonce, &aad, &blob[19..51], blob[51..].try_into().unwrap(), out).is_err();
        });
        if failed {
            return Err(KmsError::InvalidCiphertext(InvalidCiphertext::WrongContext));
        }
        Ok(DataKey::from_secret(key))
    }

    fn re_encrypt(
        &self,
        blob: &[u8],
        from_context: &EncryptionContext,
        to_key: Option<&KeyId>,
        to_context: &EncryptionContext,
    ) -> Result<CiphertextBlob, KmsError> {
        let key = self.decrypt(Requester::Own, blob, from_context)?;
        let own = u32::from_le_bytes(blob[1..5].try_into().unwrap());
        Ok(self.wrap(to_key.map_or(Ok(own), number)?, &key, to_context))
    }

    fn is_current(&self, blob: &[u8], key: &KeyId) -> Result<bool, KmsError> {
        Ok(blob[1..5] == number(key)?.to_le_bytes() && blob[5..7] == self.version.lock().to_le_bytes())
    }

    fn origin(&self, blob: &[u8]) -> Result<KeyOrigin, KmsError> {
        let blob: &[u8; 67] = blob.try_into().map_err(|_| KmsError::InvalidCiphertext(InvalidCiphertext::Malformed))?;
        let number = u32::from_le_bytes(blob[1..5].try_into().unwrap());
        let version = u16::from_le_bytes(blob[5..7].try_into().unwrap());
        Ok(KeyOrigin { key: KeyId(format!("cmk-{number}")), version })
    }

    fn authorize(
        &self,
        request: UserRequest<'_>,
        action: Action,
        key: &KeyId,
        context: &EncryptionContext,
    ) -> Result<(), KmsError> {
        self.allows(request.caller, action, key, context)
    }

    fn allows(&self, _: &Caller, _: Action, key: &KeyId, _: &EncryptionContext) -> Result<(), KmsError> {
        number(key).map(|_| ())
    }

    fn permits(&self, _: &KeyOrigin) -> Result<(), KmsError> {
        Ok(())
    }

    fn may_wrap(&self, key: &KeyId) -> Result<(), KmsError> {
        number(key).map(|_| ())
    }

    fn resolve(&self, name: &str) -> Result<KeyId, KmsError> {
        let key = KeyId(name.to_owned());
        number(&key).map(|_| key)
    }

    fn aliases(&self, _: &KeyId) -> Vec<String> {
        Vec::new()
    }

    fn refresh(&self) -> Result<(), KeystoreError> {
        Ok(())
    }
}
