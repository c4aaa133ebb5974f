//! countersign-policy.
