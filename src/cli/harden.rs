//! What the process denies to others before it has read a secret: a core file, and being looked into by other processes of
//! the same user.

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

use super::complain;

/// What this process was allowed before; a command that it runs gets it back.
#[derive(Clone, Copy)]
pub(super) struct Before {
    core: Rlimit,
    files: Rlimit,
}

/// Also raises the limit of open files to what is allowed: every request needs two. `runs`: is a command to be run, which may
/// leave core files of its own?
pub(super) fn process(runs: bool) -> Before {
    // Security: no ptrace by other processes of this user, no core file (prctl(2), core(5)).
    if set_dumpable_behavior(DumpableBehavior::NotDumpable).is_err() {
        complain("warning: other processes of this user can look into this one");
    }
    let before = Before { core: getrlimit(Resource::Core), files: getrlimit(Resource::Nofile) };
    let none = Rlimit { current: Some(0), maximum: if runs { before.core.maximum } else { Some(0) } };
    if setrlimit(Resource::Core, none).is_err() {
        complain("warning: a crash may leave a core file with secrets in it");
    }
    // Without it, the connections are fewer; accepting says so when it matters.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: before.files.maximum, ..before.files });
    before
}

impl Before {
    /// Starts a process with the limits that this one had. Programs that use `select` go wrong with more files.
    pub(super) fn spawn<T>(self, spawn: impl FnOnce() -> T) -> T {
        let limits = [(Resource::Core, self.core), (Resource::Nofile, self.files)];
        let ours = limits.map(|(resource, before)| (resource, getrlimit(resource), before));
        for (resource, _, before) in ours {
            let _ = setrlimit(resource, before);
        }
        let spawned = spawn();
        for (resource, ours, _) in ours {
            let _ = setrlimit(resource, ours);
        }
        spawned
    }
}
