//! countersign-spire.
