//! countersign-agent.
