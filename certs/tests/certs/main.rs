//! Tests of countersign-certs, one binary.

mod bundles;
mod chains;
mod documents;
mod ids;
mod issuing;
mod model;
mod rules;
mod spire;
mod support;
mod templates;
mod values;
