//! countersign-agent-api.
