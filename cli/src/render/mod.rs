//! Values become text. Pure: the time is an argument, and so is whether there are colours.

pub mod auth;
pub mod encrypt;
pub mod endpoint;
pub mod escape;
pub mod explain;
pub mod flow;
pub mod lint;
pub mod paint;
pub mod policy;
pub mod rotate;
pub mod spire;
pub mod status;
pub mod table;
pub mod units;
pub mod verdict;
