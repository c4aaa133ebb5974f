//! Tests of countersign-certs, one binary.

mod chains;
mod ids;
mod issuing;
mod model;
mod support;
mod values;
