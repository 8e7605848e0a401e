//! Where a URL leads, and a socket to there: in the clear, or over TLS with the authorities one trusts.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::policy::Ended;
use wire::CloseCode;

/// Whose certificates are believed. Cheap to clone.
#[derive(Clone)]
pub struct Tls(Arc<ClientConfig>);

#[derive(Clone, Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{file}: {why}")]
    File { file: String, why: String },
    /// Why, as far as the system says.
    #[error("no authorities are known here: name a file of your own (--ca){0}")]
    NoAuthorities(String),
}

impl Tls {
    /// Believes the authorities in this PEM file and no others.
    pub fn of_file(file: &Path) -> Result<Self, TlsError> {
        let failed = |why: String| TlsError::File {
            file: file.display().to_string(),
            why,
        };
        let mut roots = RootCertStore::empty();
        let certificates = CertificateDer::pem_file_iter(file).map_err(|e| failed(e.to_string()))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|e| failed(e.to_string()))?;
            roots.add(certificate).map_err(|e| failed(e.to_string()))?;
        }
        if roots.is_empty() {
            return Err(failed("there is no certificate in it".into()));
        }
        Ok(Self::of(roots))
    }

    /// Believes whom this system believes. Read until it worked once: it is some hundred certificates.
    pub fn of_system() -> Result<Self, TlsError> {
        static SYSTEM: OnceLock<Tls> = OnceLock::new();
        if let Some(tls) = SYSTEM.get() {
            return Ok(tls.clone());
        }
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let why = found.errors.iter().map(|e| format!("; {e}")).collect();
            return Err(TlsError::NoAuthorities(why));
        }
        Ok(SYSTEM.get_or_init(|| Tls::of(roots)).clone())
    }

    fn or_system(tls: Option<&Tls>) -> Result<Self, TlsError> {
        tls.map_or_else(Self::of_system, |tls| Ok(tls.clone()))
    }

    fn of(roots: RootCertStore) -> Self {
        let ring = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(ring)
            .with_safe_default_protocol_versions()
            .expect("ring speaks every version we build")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self(Arc::new(config))
    }
}

/// `scheme://host:port/path`, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// `host:port`; the port is the scheme's own if none is given.
    pub host: String,
    /// Empty, or from the `/` on.
    pub path: String,
    pub secure: bool,
}

/// (in the clear, over TLS)
type Schemes = (&'static str, &'static str);
pub const WS: Schemes = ("ws", "wss");
pub const TCP: Schemes = ("tcp", "tls");
pub const HTTP: Schemes = ("http", "https");

impl Target {
    /// A URL with one of these schemes.
    pub fn of(url: &str, schemes: &[Schemes]) -> Result<Self, Ended> {
        let refuse = |why: String| Ended {
            code: Some(CloseCode::Forbidden.number()),
            reason: why,
            retry_after_ms: None,
        };
        let (clear, over_tls) = schemes[0];
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(refuse(format!("{url} is not a URL; write {clear}://host:port")));
        };
        let Some(known) = schemes.iter().find(|(c, t)| [*c, *t].contains(&scheme)) else {
            return Err(refuse(format!(
                "{scheme}:// is not spoken here; write {clear}://host:port, or {over_tls}:// over TLS"
            )));
        };
        let secure = scheme == known.1;
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let has_port = host
            .rsplit_once(':')
            .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let port = if secure { 443 } else { 80 };
        Ok(Self {
            host: if has_port {
                host.to_owned()
            } else {
                format!("{host}:{port}")
            },
            path: path.to_owned(),
            secure,
        })
    }

    /// The name its certificate must have.
    fn name(&self) -> &str {
        let name = self.host.rsplit_once(':').map_or(self.host.as_str(), |(name, _)| name);
        name.trim_start_matches('[').trim_end_matches(']')
    }
}

/// Bytes both ways.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}
pub type Stream = Box<dyn Io>;

/// Opens a socket. Without `tls` a secure target is held against the system's authorities.
pub async fn dial(target: &Target, tls: Option<&Tls>) -> Result<Stream, Ended> {
    let host = &target.host;
    let stream = TcpStream::connect(host)
        .await
        .map_err(|e| Ended::lost(format!("no connection to {host}: {e}")))?;
    stream.set_nodelay(true).map_err(|e| Ended::lost(e.to_string()))?;
    if !target.secure {
        return Ok(Box::new(stream));
    }
    let bad = |why: String| Ended::lost(format!("no TLS with {host}: {why}"));
    let Tls(config) = Tls::or_system(tls).map_err(|e| bad(e.to_string()))?;
    let connector = TlsConnector::from(config);
    let name = ServerName::try_from(target.name().to_owned()).map_err(|e| bad(e.to_string()))?;
    let stream = connector.connect(name, stream).await.map_err(|e| bad(e.to_string()))?;
    Ok(Box::new(stream))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart_and_another_scheme_refused() {
        let of = |url| Target::of(url, &[WS, HTTP]).map(|t| (t.host, t.path, t.secure));
        assert_eq!(of("ws://a:1"), Ok(("a:1".into(), String::new(), false)));
        assert_eq!(of("wss://a/v1/x"), Ok(("a:443".into(), "/v1/x".into(), true)));
        assert_eq!(of("https://[::1]:8443/"), Ok(("[::1]:8443".into(), "/".into(), true)));
        assert_eq!(of("http://[::1]"), Ok(("[::1]:80".into(), String::new(), false)));
        for bad in ["a:1", "ftp://a", "wsss://a", ""] {
            assert!(!of(bad).unwrap_err().comes_back(), "{bad}");
        }
    }

    #[test]
    fn the_certificates_name_is_the_host_without_its_port() {
        for (url, name) in [
            ("wss://a.example:1", "a.example"),
            ("wss://[::1]:2", "::1"),
            ("wss://10.0.0.1", "10.0.0.1"),
        ] {
            assert_eq!(Target::of(url, &[WS]).unwrap().name(), name);
        }
    }

    #[test]
    fn a_file_without_certificates_is_no_authority() {
        let dir = std::env::temp_dir().join(format!("switchboard-ca-{}", std::process::id()));
        std::fs::write(&dir, "nothing").unwrap();
        assert!(Tls::of_file(&dir).is_err());
        assert!(Tls::of_file(Path::new("/nonexistent")).is_err());
        std::fs::remove_file(&dir).unwrap();
    }
}
