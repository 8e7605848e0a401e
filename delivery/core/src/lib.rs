//! delivery-core
