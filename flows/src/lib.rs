//! countersign-flows.
