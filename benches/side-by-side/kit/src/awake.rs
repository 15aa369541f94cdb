//! Keeps one CPU from going idle, at the lowest priority (SCHED_IDLE): in a virtual machine a halted CPU takes
//! milliseconds to wake now and then, and that noise would hide what is measured.
use crate::sys::*;

pub fn run(args: &Args) {
    pin(args.num("--cpu", 0));
    unsafe {
        let param: libc::sched_param = std::mem::zeroed();
        check(libc::sched_setscheduler(0, libc::SCHED_IDLE, &param), "sched_setscheduler");
        // Whoever measures must not leave this behind when he dies.
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
    }
    loop {
        std::hint::spin_loop();
    }
}
