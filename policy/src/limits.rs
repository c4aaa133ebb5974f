//! Every bound of this crate, each with its reason.

/// Largest text handed to the YAML parser, bytes. The API server stores at most 1.5 MiB an object; a file may
/// hold several.
pub const TEXT_BYTES: usize = 4 << 20;

/// Deepest nesting of a document. A policy is 10 deep, a Pod 12; recursion over a value stays on the stack.
pub const DEPTH: usize = 64;

/// Most scalars, lists and maps of one text once its aliases are expanded ("a billion laughs" ends here).
pub const NODES: usize = 400_000;

/// Most bytes in the strings and keys of one text once its aliases are expanded: a long string that is repeated is
/// one value each time. Four times the text is more than anybody shares.
pub const EXPANDED_BYTES: usize = 4 * TEXT_BYTES;

/// Longest string of a document that is looked at, bytes; what is longer is refused where a name is expected.
pub const NAME_BYTES: usize = 253;

/// Longest value of a label, bytes (Kubernetes).
pub const LABEL_VALUE_BYTES: usize = 63;

/// Longest key of a label with its source and prefix, bytes (Kubernetes: 253 + `/` + 63).
pub const LABEL_KEY_BYTES: usize = 317;
