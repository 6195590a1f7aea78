//! TLS by rustls on AWS-LC, as a server with one certificate.

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
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| unusable(&files.key, error))?;
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key));
    let config = config.map_err(|error| unusable(&files.certificate, error))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
