//! countersign-certs.
