//! Every limit of the control socket, each with its reason.

use std::time::Duration;

/// Longest line in bytes, its newline included. A status of a full node is some 20 KiB; lists go one item a line.
pub const MAX_LINE: usize = 1 << 20;

/// Most items a client collects into one list: four times the pairs an agent is built for.
pub const MAX_LIST_ITEMS: usize = 1 << 18;

/// Connections served at once. A person uses one or two; `observe -f` of a few people must not shut others out.
pub const MAX_CONNECTIONS: usize = 64;

/// Requests read and waiting for the agent to take them.
pub const ACCEPT_QUEUE: usize = 16;

/// How long a client may take to send its request: it is local, and one line.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one line may wait for a client that does not read.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a client waits for an answer. The slowest is an endpoint's first policy.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a client waits for the socket to take the connection.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Most values in one field of a [`crate::FlowFilter`]: it is evaluated for every flow.
pub const MAX_FILTER_VALUES: usize = 64;

/// Most past flows one [`crate::ObserveRequest`] may ask for.
pub const MAX_LAST: u32 = 1 << 20;

/// Longest file system path of a socket (`sun_path` less its terminating zero).
pub const MAX_SOCKET_PATH: usize = 107;
