//! The rooms of the house: their directories, and who may import whom. `ARCHITECTURE.md` in a table.

/// What a room is, which decides what it may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No runtime, clock, file, socket, environment or global random source.
    Pure,
    /// Talks to the world, and to no other shell.
    Shell,
    /// A program, or what only programs and tests use.
    Program,
}

/// One crate.
#[derive(Debug)]
pub struct Room {
    /// The crate's name.
    pub name: &'static str,
    /// Its directory.
    pub dir: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Crates of ours it may name in its manifest.
    pub imports: &'static [&'static str],
    /// It may reach aya through its imports.
    pub reaches_aya: bool,
}

const fn room(name: &'static str, dir: &'static str, kind: Kind, imports: &'static [&'static str]) -> Room {
    Room { name, dir, kind, imports, reaches_aya: false }
}

const fn with_aya(mut room: Room) -> Room {
    room.reaches_aya = true;
    room
}

const EBPF_COMMON: &str = "countersign-ebpf-common";
const EBPF_LOADER: &str = "countersign-ebpf-loader";
const POLICY: &str = "countersign-policy";
const CERTS: &str = "countersign-certs";
const AUTH_PROTO: &str = "countersign-auth-proto";
const WG_PROTO: &str = "countersign-wg-proto";
const WG_CORE: &str = "countersign-wg-core";
const SPIRE_PROTO: &str = "countersign-spire-proto";
const SPIRE: &str = "countersign-spire";
const CLUSTER: &str = "countersign-cluster";
const FLOWS: &str = "countersign-flows";
const WG_MANAGER: &str = "countersign-wg-manager";
const API: &str = "countersign-agent-api";
const AGENT: &str = "countersign-agent";
const LAB: &str = "countersign-lab";
const E2E: &str = "countersign-e2e";

/// The agent: the one place where the shells meet.
const AGENT_IMPORTS: &[&str] = &[
    EBPF_COMMON,
    EBPF_LOADER,
    POLICY,
    CERTS,
    AUTH_PROTO,
    WG_PROTO,
    SPIRE_PROTO,
    SPIRE,
    CLUSTER,
    FLOWS,
    WG_MANAGER,
    API,
];

/// Every room there is; a crate of the workspace that is not here is a violation.
pub const ROOMS: &[Room] = &[
    room(EBPF_COMMON, "ebpf/common", Kind::Pure, &[]),
    room(POLICY, "policy", Kind::Pure, &[EBPF_COMMON]),
    room(CERTS, "certs", Kind::Pure, &[]),
    room(AUTH_PROTO, "auth-agent/proto", Kind::Pure, &[]),
    room(WG_PROTO, "wg-manager/proto", Kind::Pure, &[CERTS]),
    room(WG_CORE, "wg-manager/core", Kind::Pure, &[WG_PROTO]),
    with_aya(room(EBPF_LOADER, "ebpf/loader", Kind::Shell, &[EBPF_COMMON])),
    room(SPIRE_PROTO, "spire-integration/proto", Kind::Pure, &[POLICY, CERTS, WG_PROTO]),
    room(SPIRE, "spire-integration", Kind::Shell, &[CERTS, SPIRE_PROTO]),
    room(CLUSTER, "cluster", Kind::Shell, &[POLICY]),
    room(FLOWS, "flows", Kind::Shell, &[EBPF_COMMON, POLICY]),
    room(WG_MANAGER, "wg-manager/manager", Kind::Shell, &[WG_PROTO, CERTS]),
    room("countersign-wg", "wg-manager/wg", Kind::Program, &[WG_PROTO, WG_CORE]),
    room(
        "countersign-registrar",
        "spire-integration/registrar",
        Kind::Program,
        &[SPIRE, SPIRE_PROTO, CERTS, POLICY, CLUSTER],
    ),
    room(API, "auth-agent/api", Kind::Program, &[]),
    with_aya(room(AGENT, "auth-agent/agent", Kind::Program, AGENT_IMPORTS)),
    room(LAB, "e2e/lab", Kind::Program, &[API, CLUSTER, POLICY, CERTS, SPIRE_PROTO]),
    room("countersign-cli", "cli", Kind::Program, &[API, POLICY, SPIRE_PROTO, LAB]),
    room(E2E, "e2e/tests", Kind::Program, &[API, LAB, CERTS, POLICY, AUTH_PROTO, SPIRE, SPIRE_PROTO]),
    with_aya(room(
        "countersign-bench",
        "bench",
        Kind::Program,
        &["countersign-wg", API, LAB, E2E, EBPF_COMMON, EBPF_LOADER, POLICY, WG_PROTO, WG_CORE],
    )),
    room("xtask", "xtask", Kind::Program, &[]),
];

/// The eBPF programs, which are no member of the workspace.
pub const PROGRAMS: Room = room("countersign-ebpf-programs", "ebpf/programs", Kind::Program, &[EBPF_COMMON]);

/// What the pure crates never reach, directly or through others: runtimes, transports, the system.
pub const IMPURE: &[&str] = &[
    "tokio",
    "async-std",
    "smol",
    "tonic",
    "hyper",
    "reqwest",
    "kube",
    "kube-client",
    "kube-runtime",
    "aya",
    "mio",
    "socket2",
    "nix",
    "rtnetlink",
    "inotify",
];

/// A dependency that one room alone may name.
pub struct Reserved {
    /// Crates of others.
    pub crates: &'static [&'static str],
    /// The rooms that may name them.
    pub rooms: &'static [&'static str],
}

/// Who alone may name what.
pub const RESERVED: &[Reserved] = &[
    Reserved { crates: &["aya", "aya-obj"], rooms: &[EBPF_LOADER] },
    Reserved {
        crates: &["kube", "kube-client", "kube-core", "kube-runtime", "k8s-openapi"],
        rooms: &[CLUSTER],
    },
    Reserved { crates: &["spiffe", "spire-api", "spiffe-rustls"], rooms: &[SPIRE] },
    Reserved {
        crates: &["netlink-packet-wireguard", "wireguard-control", "defguard_wireguard_rs"],
        rooms: &[WG_MANAGER],
    },
    Reserved { crates: &["boringtun", "gotatun"], rooms: &["countersign-wg"] },
];

/// Names a pure crate's source must not contain outside its tests, after `std::` (or in a `use std` tree).
pub const IMPURE_STD: &[&str] = &["fs", "env", "process", "thread"];

/// Names a pure crate's source must not contain outside its tests at all: clocks, sockets, global randomness.
pub const IMPURE_NAMES: &[&str] = &[
    "SystemTime",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "UnixDatagram",
    "thread_rng",
    "ThreadRng",
    "OsRng",
    "SysRng",
    "getrandom",
    "from_os_rng",
    "from_entropy",
    "clock_gettime",
];

/// The same for names that are harmless alone: `(type or module, function)`.
pub const IMPURE_PATHS: &[(&str, &str)] = &[
    ("Instant", "now"),
    ("Utc", "now"),
    ("Local", "now"),
    ("rand", "rng"),
    ("rand", "random"),
    ("rand", "fill"),
];

/// The room of the crate called `name`.
pub fn find(name: &str) -> Option<&'static Room> {
    ROOMS.iter().find(|room| room.name == name)
}
