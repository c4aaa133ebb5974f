//! countersign-lab.
