//! TLS of the listeners: a certificate chain and a key, both PEM.

use std::sync::Arc;

use process::config::Tls;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::error::Error;

/// `None` if TLS is not configured.
pub fn acceptor(config: &Tls) -> Result<Option<TlsAcceptor>, Error> {
    if !config.is_on() {
        return Ok(None);
    }
    let bad = |why: String| Error::Tls { what: "tls", why };
    let chain = CertificateDer::pem_file_iter(&config.cert_file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| bad(format!("{}: {e}", config.cert_file)))?;
    let key = PrivateKeyDer::from_pem_file(&config.key_file).map_err(|e| bad(format!("{}: {e}", config.key_file)))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| bad(e.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|e| bad(e.to_string()))?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A session ticket per idle connection would cost more than the connection.
    tls.send_tls13_tickets = 0;
    Ok(Some(TlsAcceptor::from(Arc::new(tls))))
}
