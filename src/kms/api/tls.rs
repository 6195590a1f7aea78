//! TLS by rustls on AWS-LC, as a server with one certificate.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::server::{ServeError, TlsFiles};

/// Accepts TLS 1.2 and 1.3.
pub(super) type Acceptor = TlsAcceptor;

fn unusable(path: &Path, reason: impl ToString) -> ServeError {
    ServeError::Tls { path: path.to_path_buf(), reason: reason.to_string() }
}

/// An acceptor with the certificate and key of these files.
///
/// # Errors
/// [`ServeError::Tls`] if a file cannot be read, is not what it should be, or the key is another certificate's.
pub(super) fn acceptor(files: &TlsFiles) -> Result<Acceptor, ServeError> {
    let bad_certificate = |error: pem::Error| unusable(&files.certificate, error);
    let chain = CertificateDer::pem_file_iter(&files.certificate).map_err(bad_certificate)?;
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(bad_certificate)?;
    if chain.is_empty() {
        return Err(unusable(&files.certificate, "there is no certificate in it"));
    }
    let key = private_key(&files.key)?;
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key));
    let config = config.map_err(|error| unusable(&files.certificate, error))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The private key in a file that only its owner can read, as with key files of slots.
fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, ServeError> {
    let file = File::open(path).map_err(|error| unusable(path, error))?;
    let metadata = file.metadata().map_err(|error| unusable(path, error))?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(unusable(path, "it is readable or writable by others; make it private with chmod 600"));
    }
    PrivateKeyDer::from_pem_reader(file).map_err(|error| unusable(path, error))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    #[test]
    fn a_private_key_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        let pair = crate::crypto::pair::generate(crate::crypto::pair::PairSpec::P256).unwrap();
        let text = data_encoding::BASE64.encode(&pair.private);
        fs::write(&path, format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n")).unwrap();
        for (mode, is_private) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o620, false)] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert_eq!(private_key(&path).is_ok(), is_private, "{mode:o}");
        }
    }
}
