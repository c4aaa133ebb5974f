//! countersign-cluster.
