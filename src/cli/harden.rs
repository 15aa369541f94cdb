//! What the process denies to others before it has read a secret: a core file, and being looked into by other processes of
//! the same user.

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

use super::complain;

/// Also raises the limit of open files to what is allowed: every request needs two.
pub(super) fn process() {
    // Security: no ptrace by other processes of this user, no core file (prctl(2), core(5)).
    if set_dumpable_behavior(DumpableBehavior::NotDumpable).is_err() {
        complain("warning: other processes of this user can look into this one");
    }
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if setrlimit(Resource::Core, none).is_err() {
        complain("warning: a crash may leave a core file with secrets in it");
    }
    let files = getrlimit(Resource::Nofile);
    // Without it, the connections are fewer; accepting says so when it matters.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: files.maximum, maximum: files.maximum });
}
