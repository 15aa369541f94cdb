//! What Redis says when it refuses something, in words for the operator.

use std::error::Error;

use redis::RedisError;

use super::Redis;
use crate::connect::tls_error;

/// What every user of ours has to be allowed.
const COMMANDS: &str = "+eval +time +hget +hmget +hset +hdel +hstrlen +scan +select";
/// Of what it says itself.
const LENGTH_MAX: usize = 200;

/// Why there is no answer.
pub struct Fault {
    pub text: String,
    /// Is another connection needed, and perhaps to another server?
    pub over: bool,
}

/// A word of its answer; what that means, what to do, and whether the connection is of no use any more.
const MEANINGS: &[(&[&str], &str, &str, bool)] = &[
    (
        &["WRONGPASS", "invalid password", "invalid username"],
        "refuses the password",
        "correct [store] password, or the user name in url",
        true,
    ),
    (
        &["without any password configured", "no password is set"],
        "has no password of its own",
        "set one there (requirepass, or an ACL), or remove [store] password",
        true,
    ),
    (&["NOAUTH"], "wants a password", "set [store] password", true),
    (&["wrong number of arguments for 'auth'"], "knows no user names", "remove the one in [store] url", true),
    (&["READONLY"], "is a replica, which changes nothing", "after a fail-over, point [store] url at the primary", true),
    (&["OOM"], "has no memory left", "give it more (maxmemory)", false),
    (&["MISCONF"], "takes no changes, because it cannot save them", "see its log: its disk may be full", false),
    (&["NOREPLICAS"], "takes no changes, because too few replicas follow it", "see min-replicas-to-write there", false),
    (&["LOADING"], "is still reading its data", "wait until it has", true),
    (&["MASTERDOWN"], "is a replica that has lost its primary", "point [store] url at the primary", true),
    (
        &["MOVED", "ASK ", "CLUSTERDOWN", "TRYAGAIN"],
        "is a node of a cluster",
        "point [store] url at a proxy for the cluster, or at a Redis that is none",
        true,
    ),
    (&["BUSY"], "is busy with a script of somebody else's", "wait, or end it there (SCRIPT KILL)", false),
    (&["DENIED"], "is in protected mode", "set a password there (requirepass, or an ACL), and [store] password", true),
    (&["max number of clients"], "has too many clients", "raise maxclients there", true),
    (&["WRONGTYPE"], "has something else under that key", "choose another [store] prefix", false),
    (&["DB index"], "has no database of that number", "correct the one in [store] url", true),
    (&["non deterministic"], "is older than Redis 5", "take a newer one", false),
    (&["unknown command", "Unknown Redis command"], "lacks a command", "take Redis 5 or later, and rename none", false),
];

/// What an error means. Security: with `silent`, nothing that the server says is quoted.
pub fn fault(server: &Redis, error: &RedisError, silent: bool) -> Fault {
    let Some(code) = error.code() else { return Fault { text: ended(server, error), over: true } };
    said(server, &format!("{code} {}", error.detail().unwrap_or_default()), silent)
}

/// What its words mean, the first of which is a code.
pub fn said(server: &Redis, words: &str, silent: bool) -> Fault {
    let no_permission = ["NOPERM", "user executing the script", "ACL failure", "no permissions"];
    if no_permission.iter().any(|word| words.contains(word)) {
        let user = server.username.as_deref().unwrap_or("default");
        let rule = format!("ACL SETUSER {user} ~{}* {COMMANDS}", server.prefix);
        return Fault { text: format!("{server} does not permit its user to do that; give it: {rule}"), over: false };
    }
    let meant = MEANINGS.iter().find(|(known, ..)| known.iter().any(|word| words.contains(word)));
    match meant {
        Some((_, what, fix, over)) => Fault { text: format!("{server} {what}; {fix}"), over: *over },
        None => {
            let words = if silent { words.split(' ').next().unwrap_or_default() } else { words };
            let words = words.chars().map(|c| if c.is_control() { ' ' } else { c });
            let words: String = words.take(LENGTH_MAX).collect();
            Fault { text: format!("{server} says: {}; see its log", words.trim()), over: silent }
        }
    }
}

/// There is no answer at all. A server refuses a client certificate only when it has been read.
pub fn ended(server: &Redis, error: &(dyn Error + 'static)) -> String {
    if let Some(tls) = tls_error(error) {
        let (what, fix) = server.endpoint.explain(tls);
        return format!("{server} cannot be reached: {what}; {fix}");
    }
    format!("{server} has ended the connection ({error}); is it up?")
}

pub fn no_redis(server: &Redis) -> String {
    format!("{server} does not answer as a Redis does; is this a Redis, version 5 or later?")
}
