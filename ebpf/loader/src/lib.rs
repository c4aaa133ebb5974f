//! countersign-ebpf-loader.
