//! What is allowed, and every exception with its reason.
//!
//! Owns: the tables that the checks read. Must never do: grow without a reason beside the line.
//! Invariants: the edges are those of the design; Cargo enforces that they make no circle.

/// What a package may depend on, among the project's own.
pub(super) struct Edge {
    pub(super) package: &'static str,
    pub(super) uses: &'static [&'static str],
    /// Further ones for its tests.
    pub(super) tests_use: &'static [&'static str],
}

const fn edge(
    package: &'static str,
    uses: &'static [&'static str],
    tests_use: &'static [&'static str],
) -> Edge {
    Edge { package, uses, tests_use }
}

/// The dependency edges: model <- wire <- client <- cli;
/// world <- commitlog <- raft <- broker <- native <- server; model below all.
pub(super) const EDGES: [Edge; 21] = [
    edge("model", &[], &[]),
    edge("world", &["model"], &[]),
    edge("commitlog", &["model", "world"], &[]),
    edge("raft", &["model", "world", "commitlog"], &[]),
    edge("cluster", &["model"], &[]),
    edge("broker", &["model", "world", "commitlog", "raft", "cluster"], &[]),
    // It decides by pure functions of `cluster` and talks to the broker's first core.
    edge("control", &["cluster", "broker"], &["model"]),
    edge("wire", &["model"], &[]),
    edge("native", &["model", "world", "broker", "wire"], &["client"]),
    edge("peer", &["model", "world", "raft"], &["commitlog"]),
    edge("client", &["model", "wire"], &[]),
    edge("cli", &["model", "wire", "client"], &[]),
    edge("bench", &["model", "wire", "world"], &[]),
    // The composition root: it names a gateway, the broker and the tools, and verifies the log.
    edge(
        "server",
        &[
            "model",
            "world",
            "commitlog",
            "cluster",
            "broker",
            "control",
            "native",
            "peer",
            "wire",
            "client",
            "cli",
            "bench",
        ],
        &[],
    ),
    // The judge of the whole: it drives every layer in the simulated world.
    edge(
        "sim",
        &["model", "world", "commitlog", "raft", "cluster", "broker", "wire", "native", "peer"],
        &[],
    ),
    // Breaks real clusters: a client, and the checker that judges what it saw.
    edge("chaos", &["model", "wire", "client", "sim"], &[]),
    // Calls single pieces of the data path.
    edge("counts", &["model", "wire", "commitlog", "broker"], &[]),
    // Feeds every parser.
    edge(
        "fuzz",
        &[
            "model",
            "world",
            "commitlog",
            "raft",
            "cluster",
            "broker",
            "wire",
            "peer",
            "cli",
            "server",
        ],
        &[],
    ),
    // The fuzzer's binaries, in a workspace of their own.
    edge("fuzz-targets", &["fuzz"], &[]),
    // Other brokers beside this one, which it starts as a process; a workspace of its own.
    edge("peers", &[], &[]),
    edge("xtask", &[], &[]),
];

/// Dependencies that only some packages may name.
pub(super) const OWNED: [(&str, &[&str]); 4] = [
    ("glommio", &["world"]),
    ("openraft", &["raft"]),
    ("tokio", &["client", "cli", "server", "chaos", "peers"]),
    ("rkyv", &["raft", "cluster", "broker"]),
];

/// A path that is named only in some folders.
pub(super) struct Ban {
    pub(super) path: &'static str,
    /// Paths below it that anybody may name.
    pub(super) except: &'static [&'static str],
    /// Where it may be named.
    pub(super) allowed: &'static [&'static str],
    /// Whether it is the standard library's: tests may then name it.
    pub(super) std: bool,
    pub(super) reason: &'static str,
}

/// The client, the command line and the tools are outside of the broker, and so is what makes and
/// times simulated runs.
const OUTSIDE: [&str; 5] =
    ["runtime/world/", "net/client/", "net/cli/", "perf/", "runtime/sim/src/runner/"];

/// As [`OUTSIDE`], and the composition root: it reads its configuration and writes the ready file
/// before and after the cores run, on the main thread.
const OUTSIDE_OR_ROOT: [&str; 6] = [
    "runtime/world/",
    "net/client/",
    "net/cli/",
    "perf/",
    "net/server/",
    "runtime/sim/src/runner/",
];

/// As [`OUTSIDE_OR_ROOT`], and the control plane, which has a thread of its own.
const OUTSIDE_OR_CONTROL: [&str; 7] = [
    "runtime/world/",
    "net/client/",
    "net/cli/",
    "perf/",
    "net/server/",
    "actors/control/",
    "runtime/sim/src/runner/",
];

/// As [`OUTSIDE_OR_ROOT`], and the command that reads a recorded history.
const OUTSIDE_OR_COMMAND: [&str; 7] = [
    "runtime/world/",
    "net/client/",
    "net/cli/",
    "perf/",
    "net/server/",
    "runtime/sim/src/runner/",
    "runtime/sim/src/command.rs",
];

const THROUGH_WORLD: &str = "go through barrage_world, so that the simulator can stand in";

pub(super) const BANNED: [Ban; 8] = [
    Ban {
        path: "glommio",
        except: &[],
        allowed: &["runtime/world/"],
        std: false,
        reason: "one crate carries its traps",
    },
    Ban {
        path: "std::fs",
        except: &[],
        allowed: &OUTSIDE_OR_COMMAND,
        std: true,
        reason: THROUGH_WORLD,
    },
    Ban {
        path: "std::net",
        // Addresses are data.
        except: &[
            "std::net::SocketAddr",
            "std::net::SocketAddrV4",
            "std::net::SocketAddrV6",
            "std::net::IpAddr",
            "std::net::Ipv4Addr",
            "std::net::Ipv6Addr",
            "std::net::AddrParseError",
            "std::net::Shutdown",
        ],
        allowed: &OUTSIDE_OR_ROOT,
        std: true,
        reason: THROUGH_WORLD,
    },
    Ban {
        path: "std::thread",
        except: &[],
        allowed: &OUTSIDE_OR_CONTROL,
        std: true,
        reason: THROUGH_WORLD,
    },
    Ban {
        path: "std::time",
        // A length of time is data; clocks are not.
        except: &["std::time::Duration"],
        allowed: &OUTSIDE,
        std: true,
        reason: THROUGH_WORLD,
    },
    Ban {
        path: "tokio",
        except: &[],
        allowed: &[
            "net/client/",
            "net/cli/",
            "net/http/",
            "actors/control/",
            "perf/",
            // A joining node is a client before it is a node.
            "net/server/src/join.rs",
            // A member that has lost the others is one again.
            "net/server/src/seeds.rs",
            // A test from outside, with the client in its hand.
            "net/server/tests/it/delay.rs",
            "net/server/tests/it/one_producer.rs",
            "net/server/tests/it/order.rs",
            "net/server/tests/it/queue.rs",
            "net/server/tests/it/stream.rs",
        ],
        std: false,
        reason: "the data plane runs on barrage_world",
    },
    Ban {
        path: "actix",
        except: &[],
        allowed: &["actors/control/", "net/http/"],
        std: false,
        reason: "the data plane runs on barrage_world",
    },
    Ban {
        path: "openraft",
        except: &[],
        allowed: &["actors/raft/"],
        std: false,
        reason: "consensus stays behind our own types",
    },
];

/// Files that may hold `unsafe`, each with what it is needed for.
pub(super) const UNSAFE_ALLOWED: [(&str, &str); 10] = [
    ("perf/bench/src/affinity.rs", "pins the load generator; CPU affinity has no safe wrapper"),
    ("perf/fuzz/src/meter.rs", "an allocator is unsafe by its trait; a thread's processor time"),
    ("runtime/world/src/glommio/fs.rs", "statvfs has no safe wrapper"),
    ("runtime/world/src/glommio/guard.rs", "a signal to one thread has no safe wrapper"),
    ("runtime/world/src/glommio/net.rs", "descriptors shared with glommio; recv and sendmsg"),
    ("runtime/world/src/glommio/node.rs", "CPU affinity, prctl and _exit have no safe wrapper"),
    ("runtime/world/src/glommio/preflight.rs", "io_uring_setup, statfs and rlimits have none"),
    ("runtime/world/src/glommio/random.rs", "getrandom has no safe wrapper"),
    ("runtime/world/src/glommio/tests.rs", "the processor time of a thread"),
    ("runtime/world/src/glommio/time.rs", "the monotonic clock as a number"),
];

/// A function or file that is longer than the rule allows.
pub(super) struct Longer {
    pub(super) path: &'static str,
    /// The function's name, or `the file`.
    pub(super) name: &'static str,
    pub(super) lines: usize,
    /// Read by people.
    #[expect(dead_code, reason = "the reason is for the reader of this table")]
    pub(super) reason: &'static str,
}

/// May only shrink.
pub(super) const LONGER: [Longer; 0] = [];
