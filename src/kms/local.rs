//! The embedded KMS behind [`Kms`]: an immutable snapshot of keys, swapped as a whole when the bundle changes.

mod copy;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use uuid::Uuid;

use super::blob::{self, Blob, Origin};
use super::bundle::{Bundle, Header};
use super::key::{Cmk, Operation};
use super::keyset::KeySet;
use super::policy::Policy;
use super::recorder::{MountAudit, OwnUse, Recorder, Wanted};
use super::slots::UnlockSecret;
use super::stamp::Stamp;
use super::users::Users;
use super::warden::Warden;
use super::{
    Action, Caller, CiphertextBlob, EncryptionContext, InvalidCiphertext, KeyId, KeyOrigin, KeystoreError, Kms,
    KmsError, Requester, UserRequest, audit, bundle_file,
};
use crate::crypto::{DataKey, Secret};

pub use copy::CopyState;

/// How often a watcher looks at the bundle.
pub const WATCH_INTERVAL: Duration = Duration::from_millis(500);

struct Source {
    path: PathBuf,
    root: Secret<32>,
    keystore: Uuid,
    // The header that came with the keys in use.
    header: Mutex<Header>,
    seen: Mutex<Option<Stamp>>,
}

/// The embedded KMS over a snapshot of keys. A request takes no lock but a read lock around one pointer.
pub struct LocalKms {
    warden: Warden,
    /// Where uses are recorded: set once the process that serves a mount is there.
    recorder: OnceLock<Recorder>,
    keys: RwLock<Arc<KeySet>>,
    generation: AtomicU64,
    source: Option<Source>,
}

impl LocalKms {
    /// A KMS over these keys, which never change.
    pub fn fixed(keys: Arc<KeySet>) -> Self {
        Self::over(keys, AtomicU64::new(0), None)
    }

    /// A KMS over a bundle file, that of a keystore or that of a volume. If it is missing or damaged, the generation
    /// before it is used, with a warning.
    ///
    /// # Errors
    /// [`KeystoreError::WrongSecret`], [`KeystoreError::Damaged`], [`KeystoreError::UnsupportedVersion`] or
    /// [`KeystoreError::Io`].
    pub fn open_bundle(path: &Path, secret: &UnlockSecret) -> Result<Self, KeystoreError> {
        Self::open_read(path, secret, |path| Ok(bundle_file::load(path)?.bundle))
    }

    /// The same, but never the generation before: for who can have the newest written anew from the keystore's records, which
    /// may hold a change that the former one lacks.
    ///
    /// # Errors
    /// As [`LocalKms::open_bundle`]; [`KeystoreError::Io`] also if the bundle is missing.
    pub fn open_newest(path: &Path, secret: &UnlockSecret) -> Result<Self, KeystoreError> {
        Self::open_read(path, secret, bundle_file::read)
    }

    fn open_read(
        path: &Path,
        secret: &UnlockSecret,
        read: impl FnOnce(&Path) -> Result<Bundle, KeystoreError>,
    ) -> Result<Self, KeystoreError> {
        // Taken before reading, so that a change in between is noticed later.
        let seen = Stamp::of(path);
        let bundle = read(path)?;
        let (root, _) = bundle.header.unlock(secret)?;
        let keys = bundle.open(&root).ok_or_else(|| KeystoreError::damaged(path, "its state does not authenticate"))?;
        let Bundle { header, .. } = bundle;
        let generation = AtomicU64::new(header.generation);
        let keystore = header.keystore;
        let source =
            Source { path: path.to_path_buf(), root, keystore, header: Mutex::new(header), seen: Mutex::new(seen) };
        Ok(Self::over(Arc::new(keys), generation, Some(source)))
    }

    /// A KMS with one fresh CMK that exists in memory only: for measuring and for tests.
    pub fn ephemeral() -> (Self, KeyId) {
        Self::ephemeral_under(Policy::mount_default())
    }

    /// The same, with a policy.
    pub fn ephemeral_under(policy: Policy) -> (Self, KeyId) {
        let mut keys = KeySet::default();
        let cmk = Cmk { policy: Some(policy.into()), ..Cmk::generate(keys.free_number(), "ephemeral") };
        let id = cmk.id.clone();
        keys.put(cmk);
        (Self::fixed(Arc::new(keys)), id)
    }

    fn over(keys: Arc<KeySet>, generation: AtomicU64, source: Option<Source>) -> Self {
        let (warden, recorder) = (Warden::default(), OnceLock::new());
        Self { warden, recorder, keys: RwLock::new(keys), generation, source }
    }

    /// Records from now on what keys are used for. Only the first call counts.
    pub fn record_to(&self, audit: MountAudit) {
        let _ = self.recorder.set(Recorder::new(audit));
    }

    /// Waits until all that was recorded is on the disk; what is not goes to the log of the program.
    pub fn flush_record(&self) {
        if let Some(Err(error)) = self.recorder.get().map(|recorder| recorder.flush()) {
            log::error!("{error}");
        }
    }

    /// The same, for users that `users` knows. `owner` is the root of the account.
    #[must_use]
    pub fn with_users(self, users: Box<dyn Users>, owner: u32) -> Self {
        Self { warden: Warden::new(users, owner), ..self }
    }

    /// The keys as they are now.
    pub fn keys(&self) -> Arc<KeySet> {
        Arc::clone(&self.keys.read())
    }

    /// The generation of the keystore in use; it grows when a change arrives.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Reads the bundle again if it looks different. Whether it was read.
    ///
    /// # Errors
    /// [`KeystoreError`] says why the new file was not taken; the keys in use stay. The same file is tried again only if it could not be read.
    pub fn refresh_if_changed(&self) -> Result<bool, KeystoreError> {
        self.refresh_by(bundle_file::read)
    }

    pub(super) fn refresh_by(
        &self,
        read: impl FnOnce(&Path) -> Result<Bundle, KeystoreError>,
    ) -> Result<bool, KeystoreError> {
        let Some(source) = &self.source else { return Ok(false) };
        let mut seen = source.seen.lock();
        let stamp = Stamp::of(&source.path);
        if stamp == *seen {
            return Ok(false);
        }
        let read = read(&source.path);
        // What cannot be read at this moment, for want of descriptors or leave, is tried again: it may say that a key is
        // disabled. What is not there is different when it is back.
        if !matches!(&read, Err(error @ KeystoreError::Io { .. }) if !bundle_file::is_missing(error)) {
            *seen = stamp;
        }
        let bundle = read?;
        let (header, path) = (&bundle.header, source.path.clone());
        if header.keystore != source.keystore {
            let (expected, found) = (source.keystore.to_string(), header.keystore.to_string());
            return Err(KeystoreError::Foreign { path, expected, found });
        }
        if header.generation < self.generation() {
            return Err(KeystoreError::RolledBack { path, known: self.generation(), found: header.generation });
        }
        let keys = bundle
            .open(&source.root)
            .ok_or_else(|| KeystoreError::damaged(&path, "its state does not authenticate"))?;
        *self.keys.write() = Arc::new(keys);
        self.generation.store(header.generation, Ordering::Release);
        *source.header.lock() = bundle.header;
        Ok(true)
    }

    /// The keys of its keystore's audit log; none for keys that never were in a keystore.
    pub fn audit_keys(&self) -> Option<audit::Keys> {
        self.source.as_ref().map(|source| audit::Keys::derive(&source.root))
    }

    /// The keystore that its keys are of.
    pub fn keystore(&self) -> Option<Uuid> {
        self.source.as_ref().map(|source| source.keystore)
    }

    /// The bundle that it reads, if any.
    pub fn bundle(&self) -> Option<&Path> {
        self.source.as_ref().map(|source| &*source.path)
    }

    /// Does what the requester may do, and nothing else; records it.
    fn admitted<T>(
        &self,
        keys: &Arc<KeySet>,
        requester: Requester<'_>,
        (action, cmk, context): (Action, &Arc<Cmk>, &EncryptionContext),
        act: impl FnOnce() -> Result<T, KmsError>,
    ) -> Result<T, KmsError> {
        let request = match requester {
            Requester::Own => {
                let own = if action == Action::Decrypt { OwnUse::Decrypt } else { OwnUse::GenerateDataKey };
                return self.recorded(own, cmk, act());
            }
            Requester::User(request) => request,
        };
        let (admitted, reason) = self.warden.admit(keys, request.caller, action, cmk, context);
        let done = admitted.and_then(|()| act());
        self.told(&request, (action, Wanted::Cmk(Arc::clone(cmk)), context), done.as_ref().map(|_| ()), reason);
        done
    }

    /// The key that a request is about. If there is none, a user's attempt is recorded all the same.
    fn wanted<'k>(
        &self,
        found: Result<&'k Arc<Cmk>, KmsError>,
        requester: Requester<'_>,
        (action, number, id, context): (Action, Option<u32>, Option<&KeyId>, &EncryptionContext),
    ) -> Result<&'k Arc<Cmk>, KmsError> {
        found.inspect_err(|error| {
            if let Requester::User(request) = requester {
                let gone = Wanted::Gone { number, id: id.cloned() };
                self.told(&request, (action, gone, context), Err(error), "there is no such key".into());
            }
        })
    }

    fn told(
        &self,
        request: &UserRequest<'_>,
        used: (Action, Wanted, &EncryptionContext),
        outcome: Result<(), &KmsError>,
        reason: Arc<str>,
    ) {
        if let Some(recorder) = self.recorder.get() {
            recorder.user((request, self.warden.principal(request.caller.uid)), used, outcome, reason);
        }
    }

    fn recorded<T>(&self, use_: OwnUse, cmk: &Cmk, done: Result<T, KmsError>) -> Result<T, KmsError> {
        if let Some(recorder) = self.recorder.get() {
            recorder.own(use_, cmk, done.as_ref().map(|_| ()));
        }
        done
    }

    fn open(cmk: &Cmk, blob: &Blob<'_>, context: &EncryptionContext) -> Result<DataKey, KmsError> {
        let material = Self::unwrapping(cmk, blob.origin.version)?;
        blob.unwrap_key(material, context).map_err(|_| KmsError::InvalidCiphertext(InvalidCiphertext::WrongContext))
    }

    /// The secret of one version, if that may unwrap.
    fn unwrapping(cmk: &Cmk, version: u16) -> Result<&Secret<32>, KmsError> {
        cmk.require(Operation::Unwrap)?;
        let invalid =
            |reason: fn(u32, u16) -> InvalidCiphertext| KmsError::InvalidCiphertext(reason(cmk.number, version));
        let known = cmk.version(version).ok_or_else(|| invalid(InvalidCiphertext::UnknownVersion))?;
        let material = known.material().ok_or_else(|| invalid(InvalidCiphertext::VersionDestroyed))?;
        Ok(material)
    }

    /// Whether it may wrap data keys.
    fn wrapping(cmk: &Cmk) -> Result<(), KmsError> {
        cmk.require(Operation::Wrap)?;
        if cmk.spec.is_asymmetric() {
            return Err(KmsError::AccessDenied(format!(
                "key {} is asymmetric, and data keys need a symmetric one",
                cmk.id.0
            )));
        }
        Ok(())
    }

    fn wrap(cmk: &Cmk, data_key: &DataKey, context: &EncryptionContext) -> Result<CiphertextBlob, KmsError> {
        Self::wrapping(cmk)?;
        let (version, material) = cmk.wrapping();
        let origin = Origin { number: cmk.number, version };
        Ok(blob::seal(origin, material, data_key.expose(), context))
    }
}

impl Kms for LocalKms {
    fn generate_data_key(
        &self,
        requester: Requester<'_>,
        key: &KeyId,
        context: &EncryptionContext,
    ) -> Result<(DataKey, CiphertextBlob), KmsError> {
        let keys = self.keys();
        let named = (Action::GenerateDataKey, None, Some(key), context);
        let cmk = self.wanted(keys.resolve(&key.0), requester, named)?;
        self.admitted(&keys, requester, (Action::GenerateDataKey, cmk, context), || {
            let data_key = DataKey::random();
            let blob = Self::wrap(cmk, &data_key, context)?;
            Ok((data_key, blob))
        })
    }

    fn decrypt(&self, requester: Requester<'_>, blob: &[u8], context: &EncryptionContext) -> Result<DataKey, KmsError> {
        let keys = self.keys();
        let parsed = Blob::of_data_key(blob).map_err(KmsError::InvalidCiphertext);
        let number = parsed.as_ref().ok().map(|blob| blob.origin.number);
        let named = (Action::Decrypt, number, number.and_then(|number| keys.id_of(number)), context);
        let found = parsed.as_ref().map_err(Clone::clone).and_then(|blob| keys.of_blob(blob.origin.number));
        let cmk = self.wanted(found, requester, named)?;
        let parsed = parsed?;
        self.admitted(&keys, requester, (Action::Decrypt, cmk, context), || Self::open(cmk, &parsed, context))
    }

    fn re_encrypt(
        &self,
        blob: &[u8],
        from_context: &EncryptionContext,
        to_key: Option<&KeyId>,
        to_context: &EncryptionContext,
    ) -> Result<CiphertextBlob, KmsError> {
        let keys = self.keys();
        let parsed = Blob::of_data_key(blob).map_err(KmsError::InvalidCiphertext)?;
        let own = keys.of_blob(parsed.origin.number)?;
        let done = Self::open(own, &parsed, from_context).and_then(|data_key| {
            let target = to_key.map_or(Ok(own), |key| keys.resolve(&key.0))?;
            Self::wrap(target, &data_key, to_context)
        });
        self.recorded(OwnUse::ReEncrypt, own, done)
    }

    fn authorize(
        &self,
        request: UserRequest<'_>,
        action: Action,
        key: &KeyId,
        context: &EncryptionContext,
    ) -> Result<(), KmsError> {
        let keys = self.keys();
        let requester = Requester::User(request);
        let cmk = self.wanted(keys.resolve(&key.0), requester, (action, None, Some(key), context))?;
        self.admitted(&keys, requester, (action, cmk, context), || Ok(()))
    }

    fn allows(
        &self,
        caller: &Caller,
        action: Action,
        key: &KeyId,
        context: &EncryptionContext,
    ) -> Result<(), KmsError> {
        let keys = self.keys();
        self.warden.admit(&keys, caller, action, keys.resolve(&key.0)?, context).0
    }

    fn is_current(&self, blob: &[u8], key: &KeyId) -> Result<bool, KmsError> {
        let origin = Blob::of_data_key(blob).map_err(KmsError::InvalidCiphertext)?.origin;
        let keys = self.keys();
        let cmk = keys.resolve(&key.0)?;
        Ok(origin == Origin { number: cmk.number, version: cmk.newest().number })
    }

    fn origin(&self, blob: &[u8]) -> Result<KeyOrigin, KmsError> {
        let Origin { number, version } = Blob::of_data_key(blob).map_err(KmsError::InvalidCiphertext)?.origin;
        let unknown = KmsError::InvalidCiphertext(InvalidCiphertext::UnknownKey(number));
        let key = self.keys().id_of(number).cloned().ok_or(unknown)?;
        Ok(KeyOrigin { key, version })
    }

    fn permits(&self, origin: &KeyOrigin) -> Result<(), KmsError> {
        let keys = self.keys();
        Self::unwrapping(keys.resolve(&origin.key.0)?, origin.version).map(|_| ())
    }

    fn may_wrap(&self, key: &KeyId) -> Result<(), KmsError> {
        Self::wrapping(self.keys().resolve(&key.0)?)
    }

    fn resolve(&self, name: &str) -> Result<KeyId, KmsError> {
        Ok(self.keys().resolve(name)?.id.clone())
    }

    fn aliases(&self, key: &KeyId) -> Vec<String> {
        self.keys().aliases().filter(|(_, target)| *target == key).map(|(name, _)| name.to_owned()).collect()
    }

    fn refresh(&self) -> Result<(), KeystoreError> {
        self.refresh_if_changed().map(|_| ())
    }
}

/// A thread that brings changes of the bundle into a [`LocalKms`]. It ends when this is dropped.
pub struct BundleWatcher {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl BundleWatcher {
    /// Starts watching, every `WATCH_INTERVAL`. After each change `changed` is called, on the watching thread.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(kms: Arc<LocalKms>, changed: impl Fn(&LocalKms) + Send + 'static) -> std::io::Result<Self> {
        let (stop, stopped) = mpsc::channel::<()>();
        let mut told = kms.generation();
        let mut failing = None;
        let watch = move || {
            while stopped.recv_timeout(WATCH_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let failed = kms.refresh_if_changed().err().map(|error| error.to_string());
                match &failed {
                    Some(error) if failed != failing => log::warn!("{error}; the keys read before stay in use"),
                    _ => {}
                }
                failing = failed;
                // Not what it says: somebody who could not wait may have refreshed before.
                let generation = kms.generation();
                if generation != told {
                    told = generation;
                    log::info!("the keystore changed; generation {generation} is in use");
                    changed(&kms);
                }
            }
        };
        let thread = std::thread::Builder::new().name("kmsfs-keys".into()).spawn(watch)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for BundleWatcher {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It panics only if refreshing does, which the hook has reported.
            let _ = thread.join();
        }
    }
}
