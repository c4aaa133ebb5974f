//! countersign-wg-manager.
