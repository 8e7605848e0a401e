//! ingress-core
