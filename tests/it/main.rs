//! Integration tests: the real binary over real sockets, or the real parts with a clock of the test's own. A test is a
//! sentence about behaviour.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::too_many_lines,
    reason = "a test that cannot go on has failed; it may ask the environment and the clock, and tell a long story"
)]

#[path = "support/mod.rs"]
mod support;

/// The operator's listener: probes, status, metrics, refresh, the admin key.
mod admin;
/// What a hostile or clumsy API answers, and what a client sends out of turn.
mod answers;
/// Who may connect: users, networks, keys, certificates; addresses that are not loopback.
mod callers;
/// A hundred and more planted secrets, everything that can go well or wrong, and nothing that shows one.
mod canaries;
/// Real clients through the proxy: curl, Python, Node, Java, ab.
mod clients;
/// The configuration file: strictness, all problems at once, secrets, permissions, schema, reference.
mod config;
/// Connections on both sides: when they are used again, held, counted and closed.
mod connections;
/// Request bytes in, verdict and upstream bytes out: the cases of `tests/corpus`, however they are cut.
mod corpus;
/// The operator's page, in a browser.
mod dashboard;
/// `demo`, as a new user runs it.
mod demo;
/// The worked examples of the dialect files, and the language they are written in.
mod dialects;
/// Mutated requests to five servers: what they saw, and what the broker says that it sent.
mod differential;
/// The documentation: its links, its commands, its configurations, its keys.
mod docs;
/// Who may use a listener: hosts, origins, methods, Unix sockets.
mod door;
/// Every message that a user can meet, held against a file in which it was read.
mod errors;
/// Server-sent events for those who look on; what a foreign page gets of it.
mod events;
/// Token servers that answer wrongly, and identities that do not fit.
mod exchange;
/// `exec`: a command beside a ready broker, its exit status, its signals, its environment.
mod exec;
/// What ends: in status, metrics, `check`, and once a day in the log.
mod expiry;
/// `explain` and `dialects`: what every class, state and code means, and the built-ins to copy.
mod explain;
/// The targets and the corpus of the fuzzers of `tests/fuzz`, without the fuzzers.
mod fuzz;
/// What the program writes about itself: completions, manual pages, the schema; and that the docs say the same.
mod generated;
/// Peers that are slow, stuck or take more than their part: memory, descriptors, threads, and how the others fare.
mod greedy;
/// Requests that come back, and what `forwarded` adds.
mod hops;
/// A certified OAuth server, for every grant and client authentication.
mod idp;
/// `init`: starter files for every dialect and place, and what happens before they are filled in.
mod init;
/// The last exchanges as they may be shown, and as a command.
mod inspector;
/// What no log, status, metric, error or process table may show.
mod leaks;
/// Start, signals, drain, exit codes, health checks.
mod lifecycle;
/// Many connections and requests at once: memory, descriptors, places, panics, drain.
mod load;
/// A person's login with a browser, its end, and what commands ask of a token.
mod login;
/// What a crash, a full disk or an answer that never came may not take away.
mod losses;
/// Every metric, alert and panel: whether it is there, valid, and explained.
mod metrics;
/// `check --online`: what each step finds, and what it never sends.
mod online;
/// Token servers that are away, slow or back again, mostly with a clock of the test's own.
mod outages;
/// Container image, compose and Kubernetes examples, the static binary.
mod packaging;
/// Real peers: the suite of Python's requests against httpbin, a WebSocket, huge bodies, events.
mod peers;
/// What a kubelet finds at `[admin] probes`, and that it is all.
mod probes;
/// One request through the proxy: heads, bodies, targets, pools, 401, WebSocket, limits.
mod proxy;
/// Records in a real Redis: versions, leases, passwords, TLS, and everything that it can say instead of an answer.
mod redis;
/// The refresh task, with a scripted server and a clock of its own.
mod refresh;
/// A configuration, certificates, CA and secret files that change under a running broker.
mod reload;
/// Several brokers that share a Redis: one acts for all, whatever stops, sleeps, or is away meanwhile.
mod replicas;
/// The rotation of a client secret, with a vendor in miniature, crashes and faults at every point, and a clock of its own.
mod rotation;
/// Many sidecars at one token server, in simulated time.
mod scale;
/// Client secrets at the vendor: listed, rotated, imported, deleted, exported, with each stand-in.
mod secrets;
/// `try`: a session without a file, its secrets, its login, and what it keeps.
mod session;
/// Many replicas and everything that goes wrong between them, simulated: crashes, partitions, pauses, clocks, a store that forgets.
mod simulation;
/// Whether the stand-ins of the vendors refuse what the vendors refuse.
mod standins;
/// What outlives the process: tokens, refusals, waits; a store that is damaged, taken, or on a failing disk.
mod store;
/// Sockets from systemd, what it is told, and the units of the examples.
mod systemd;
/// The rules of the source tree.
mod tidy;
/// Request ids, and traces that go through the broker and to a collector.
mod trace;
/// Hosts that cannot be reached, each in its own way, and who is not concerned.
mod unreachable;
/// ComAp and Vanco, end to end with the tables of the examples; and what holds for all five vendors.
mod vendors;
/// The vendors where somebody logs in: Comodo One, Covata, Netrex.
mod vendors_users;
/// The bytes of both connections: cut, dripped, pipelined, in one packet, sent again; and where each message ends.
mod wire;
