//! countersign-e2e.
