//! `kmsfs encrypt`, `decrypt` and their kin: the data plane of the KMS by hand, from files or standard input.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::failure::{Code, Failure};
use super::kms_call::Kms;
use super::kms_show::{Ask, object, pair};
use super::output;

/// More than any input of the KMS, in bytes: what is longer is refused by the KMS itself.
const MAX_INPUT: u64 = 64 * 1024;

#[derive(clap::Args)]
struct Input {
    /// Read from FILE [default: standard input]
    #[arg(long = "in", value_name = "FILE")]
    file: Option<PathBuf>,
}

impl Input {
    fn read(&self) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_INPUT as usize + 1));
        let name = self.file.as_deref().unwrap_or(Path::new("standard input"));
        let done = match &self.file {
            Some(path) => File::open(path).and_then(|file| file.take(MAX_INPUT + 1).read_to_end(&mut bytes)),
            None => io::stdin().lock().take(MAX_INPUT + 1).read_to_end(&mut bytes),
        };
        done.map_err(|error| Failure::io(name, "read", &error))?;
        Ok(bytes)
    }

    fn base64(&self) -> Result<Value, Failure> {
        Ok(Value::String(BASE64.encode(&self.read()?)))
    }
}

#[derive(clap::Args)]
struct Output {
    /// Write to FILE, which must not exist [default: standard output]
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    out: Option<PathBuf>,
}

/// Where the parts of an answer go. Files are made before anything is asked for, so that no key is made that cannot be kept, and
/// removed unless all of the parts arrive.
struct Outputs<'a> {
    parts: Vec<Part<'a>>,
    is_complete: bool,
}

/// The bytes under a member of an answer, and the file for them; standard output if there is none.
struct Part<'a> {
    member: &'static str,
    file: Option<(&'a Path, File)>,
}

impl<'a> Outputs<'a> {
    /// Makes the files. What is secret comes last: it is of no use without what comes before.
    fn make(parts: &[(&'static str, Option<&'a Path>)]) -> Result<Self, Failure> {
        let mut outputs = Self { parts: Vec::new(), is_complete: false };
        for (member, path) in parts {
            let file = path.map(|path| Ok::<_, Failure>((path, create(path)?))).transpose()?;
            outputs.parts.push(Part { member, file });
        }
        Ok(outputs)
    }

    fn write(mut self, answer: &Value) -> Result<(), Failure> {
        let bytes: Vec<_> =
            self.parts.iter().map(|part| decoded(answer, part.member)).collect::<Result<_, Failure>>()?;
        for (part, bytes) in self.parts.iter_mut().zip(bytes) {
            match &mut part.file {
                None => output::put_surely(&bytes)?,
                Some((path, file)) => {
                    let written = file.write_all(&bytes).and_then(|()| file.sync_all());
                    written.map_err(|error| Failure::io(path, "write", &error))?;
                }
            }
        }
        self.is_complete = true;
        Ok(())
    }
}

impl Drop for Outputs<'_> {
    fn drop(&mut self) {
        if self.is_complete {
            return;
        }
        for (path, _) in self.parts.iter().filter_map(|part| part.file.as_ref()) {
            if let Err(error) = fs::remove_file(path) {
                eprintln!("kmsfs: note: {} is incomplete, and was not removed: {error}", path.display());
            }
        }
    }
}

/// A file that holds a key is for its owner only.
fn create(path: &Path) -> Result<File, Failure> {
    let made = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    made.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => {
            let next = "choose another file, or remove it";
            Failure::new(Code::Usage, path.display(), "the file exists, and was left as it is", next)
        }
        _ => Failure::io(path, "write", &error),
    })
}

fn decoded(answer: &Value, member: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let text = answer[member].as_str().unwrap_or_default();
    let bytes = BASE64.decode(text.as_bytes());
    let bytes =
        bytes.map_err(|error| Failure::of(Code::Other, format!("{member} of the answer is damaged: {error}")))?;
    Ok(Zeroizing::new(bytes))
}

/// Has the KMS run an operation; its answer goes to these places, or is printed as a whole if that is wanted. The parameters are
/// read once the keystore is open: the passphrase may be the first line of standard input.
fn run(
    ask: &Ask,
    operation: &str,
    parameters: impl FnOnce() -> Result<Value, Failure>,
    parts: &[(&'static str, Option<&Path>)],
) -> Result<(), Failure> {
    let mut kms = Kms::open(&ask.keystore)?;
    let parameters = parameters()?;
    if ask.json {
        return output::json(&kms.call(operation, parameters)?);
    }
    let outputs = Outputs::make(parts)?;
    outputs.write(&kms.call(operation, parameters)?)
}

#[derive(clap::Args)]
struct Context {
    /// A pair of the encryption context; repeat for more
    #[arg(long = "context", value_name = "NAME=VALUE", value_parser = pair)]
    pairs: Vec<(String, String)>,
}

/// What encrypting and decrypting have in common.
#[derive(clap::Args)]
struct Crypt {
    #[command(flatten)]
    context: Context,
    /// For RSA keys: RSAES_OAEP_SHA_1 or RSAES_OAEP_SHA_256
    #[arg(long, value_name = "NAME", default_value = "SYMMETRIC_DEFAULT")]
    algorithm: String,
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    ask: Ask,
}

impl Crypt {
    /// Sends the input under the member `from`, and writes `to` of the answer.
    fn run(&self, operation: &str, key: Option<&str>, from: &str, to: &'static str) -> Result<(), Failure> {
        let parameters = || {
            Ok(json!({
                "KeyId": key,
                (from): self.input.base64()?,
                "EncryptionContext": object(&self.context.pairs),
                "EncryptionAlgorithm": self.algorithm,
            }))
        };
        run(&self.ask, operation, parameters, &[(to, self.output.out.as_deref())])
    }
}

/// Arguments of `kmsfs encrypt`.
#[derive(clap::Args)]
pub(super) struct Encrypt {
    /// The key: its id, ARN or an alias
    key: String,
    #[command(flatten)]
    crypt: Crypt,
}

pub(super) fn encrypt(args: &Encrypt) -> Result<(), Failure> {
    args.crypt.run("Encrypt", Some(&args.key), "Plaintext", "CiphertextBlob")
}

/// Arguments of `kmsfs decrypt`.
#[derive(clap::Args)]
pub(super) struct Decrypt {
    /// The key that it must be under; needed for RSA keys only
    #[arg(long)]
    key: Option<String>,
    #[command(flatten)]
    crypt: Crypt,
}

pub(super) fn decrypt(args: &Decrypt) -> Result<(), Failure> {
    args.crypt.run("Decrypt", args.key.as_deref(), "CiphertextBlob", "Plaintext")
}

/// Arguments of `kmsfs re-encrypt`.
#[derive(clap::Args)]
pub(super) struct ReEncrypt {
    /// The key to encrypt under: its id, ARN or an alias
    key: String,
    /// A pair of the encryption context that it has; repeat for more
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    source_context: Vec<(String, String)>,
    /// A pair of the encryption context that it shall have; repeat for more
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    destination_context: Vec<(String, String)>,
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    ask: Ask,
}

pub(super) fn re_encrypt(args: &ReEncrypt) -> Result<(), Failure> {
    let parameters = || {
        Ok(json!({
            "CiphertextBlob": args.input.base64()?,
            "DestinationKeyId": args.key,
            "SourceEncryptionContext": object(&args.source_context),
            "DestinationEncryptionContext": object(&args.destination_context),
        }))
    };
    run(&args.ask, "ReEncrypt", parameters, &[("CiphertextBlob", args.output.out.as_deref())])
}

/// Arguments of `kmsfs generate-data-key`.
#[derive(clap::Args)]
pub(super) struct DataKey {
    /// The key: its id, ARN or an alias
    key: String,
    #[command(flatten)]
    context: Context,
    /// The length of the data key in bytes
    #[arg(long, value_name = "N", default_value_t = 32)]
    bytes: u32,
    /// Keep the data key itself to the KMS
    #[arg(long, conflicts_with = "plaintext")]
    without_plaintext: bool,
    /// Where the data key goes
    #[arg(long, value_name = "FILE", required_unless_present_any = ["json", "without_plaintext"], conflicts_with = "json")]
    plaintext: Option<PathBuf>,
    /// Where the wrapped data key goes [default: standard output]
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    out: Option<PathBuf>,
    #[command(flatten)]
    ask: Ask,
}

pub(super) fn data_key(args: &DataKey) -> Result<(), Failure> {
    let operation = if args.without_plaintext { "GenerateDataKeyWithoutPlaintext" } else { "GenerateDataKey" };
    let parameters = json!({
        "KeyId": args.key,
        "EncryptionContext": object(&args.context.pairs),
        "NumberOfBytes": args.bytes,
    });
    let mut parts = vec![("CiphertextBlob", args.out.as_deref())];
    parts.extend(args.plaintext.as_deref().map(|path| ("Plaintext", Some(path))));
    run(&args.ask, operation, || Ok(parameters), &parts)
}

/// Arguments of `kmsfs generate-data-key-pair`.
#[derive(clap::Args)]
pub(super) struct DataKeyPair {
    /// The key: its id, ARN or an alias
    key: String,
    /// RSA_2048, RSA_3072, RSA_4096, ECC_NIST_P256, ECC_NIST_P384 or ECC_NIST_EDWARDS25519
    #[arg(long, value_name = "SPEC")]
    spec: String,
    #[command(flatten)]
    context: Context,
    /// Keep the private key itself to the KMS
    #[arg(long, conflicts_with = "private")]
    without_plaintext: bool,
    /// Where the private key goes: PKCS#8, DER
    #[arg(long, value_name = "FILE", required_unless_present_any = ["json", "without_plaintext"], conflicts_with = "json")]
    private: Option<PathBuf>,
    /// Where the public key goes: SubjectPublicKeyInfo, DER
    #[arg(long, value_name = "FILE", required_unless_present = "json", conflicts_with = "json")]
    public: Option<PathBuf>,
    /// Where the wrapped private key goes [default: standard output]
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    out: Option<PathBuf>,
    #[command(flatten)]
    ask: Ask,
}

pub(super) fn data_key_pair(args: &DataKeyPair) -> Result<(), Failure> {
    let operation = if args.without_plaintext { "GenerateDataKeyPairWithoutPlaintext" } else { "GenerateDataKeyPair" };
    let parameters = json!({
        "KeyId": args.key,
        "KeyPairSpec": args.spec,
        "EncryptionContext": object(&args.context.pairs),
    });
    let mut parts = vec![("PublicKey", args.public.as_deref()), ("PrivateKeyCiphertextBlob", args.out.as_deref())];
    parts.extend(args.private.as_deref().map(|path| ("PrivateKeyPlaintext", Some(path))));
    run(&args.ask, operation, || Ok(parameters), &parts)
}

/// Arguments of `kmsfs generate-random`.
#[derive(clap::Args)]
pub(super) struct Random {
    /// How many bytes, 1 to 1024
    bytes: u32,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    ask: Ask,
}

pub(super) fn random(args: &Random) -> Result<(), Failure> {
    let parameters = || Ok(json!({ "NumberOfBytes": args.bytes }));
    run(&args.ask, "GenerateRandom", parameters, &[("Plaintext", args.output.out.as_deref())])
}

/// Arguments of `kmsfs get-public-key`.
#[derive(clap::Args)]
pub(super) struct PublicKey {
    /// The RSA key: its id, ARN or an alias
    key: String,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    ask: Ask,
}

pub(super) fn public_key(args: &PublicKey) -> Result<(), Failure> {
    let parameters = || Ok(json!({ "KeyId": args.key }));
    run(&args.ask, "GetPublicKey", parameters, &[("PublicKey", args.output.out.as_deref())])
}
