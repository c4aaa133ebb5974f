//! countersign-ebpf-common.
