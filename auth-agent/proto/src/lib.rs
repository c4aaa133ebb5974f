//! countersign-auth-proto.
