//! Why a node could not start.

use std::net::SocketAddr;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{address} cannot be listened on: {source}")]
    Bind { address: String, source: std::io::Error },
    #[error(transparent)]
    Key(#[from] crate::auth::KeyError),
    #[error("the certificate or key of {what} cannot be used: {why}")]
    Tls { what: &'static str, why: String },
    #[error("http.client_address_header: {0:?} is no name of a header")]
    Header(String),
    #[error("the log gives no producer: {0}")]
    Log(#[from] ordered_log::LogError),
}

/// Where a node listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    pub ws_http: Option<SocketAddr>,
    pub tcp: Option<SocketAddr>,
}
