//! countersign-wg-proto.
