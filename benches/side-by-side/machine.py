"""The machine: a network of its own, processes on one CPU each, what they spend and hold."""
import ctypes
import fcntl
import os
import resource
import signal
import socket
import struct
import subprocess

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
PR_SET_PDEATHSIG = 1
SIOCSIFFLAGS, IFF_UP_RUNNING = 0x8914, 0x41

CPUS = sorted(os.sched_getaffinity(0))
# The proxy has one CPU for itself; what is around it has the other.
CPU_PROXY, CPU_LOAD = CPUS[0], CPUS[1 if len(CPUS) > 1 else 0]


def own_network():
    """A network namespace, where the system allows one: no port is taken, and nothing outside can be reached.

    Some hosts have bbr, which paces loopback too, and so its timers would be measured."""
    if LIBC.unshare(CLONE_NEWNET) != 0:
        uid = os.getuid()
        if LIBC.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
            return "the host's network"
        for file, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {os.getgid()} 1")):
            write(f"/proc/self/{file}", text)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        fcntl.ioctl(s, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP_RUNNING))
    for key, value in (("tcp_congestion_control", "reno"), ("ip_local_port_range", "15000 65000")):
        try:
            write(f"/proc/sys/net/ipv4/{key}", value)
        except OSError:
            pass
    return "a network of its own"


def read(path):
    with open(path, errors="replace") as file:
        return file.read()


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def stolen():
    """What the hypervisor gave to others, and all there was, in clock ticks."""
    ticks = [int(field) for field in read("/proc/stat").splitlines()[0].split()[1:]]
    return ticks[7], sum(ticks[:8])


class Process:
    """A command that was started here, and what it started; all of it ends with this program."""

    running = []

    def __init__(self, argv, cpu, log=None, **pipes):
        def prepare():
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            os.sched_setaffinity(0, {cpu})
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            for files in (65536, hard):
                try:
                    return resource.setrlimit(resource.RLIMIT_NOFILE, (files, max(files, hard)))
                except (ValueError, OSError):
                    continue

        with open(log or os.devnull, "ab") as out:
            pipes = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": out, **pipes}
            self.popen = subprocess.Popen(argv, preexec_fn=prepare, **pipes)
        self.pid = self.popen.pid
        Process.running.append(self)

    def alive(self):
        return self.popen.poll() is None

    def tree(self):
        """Its process id, and those of its descendants."""
        children = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                parent = int(read(f"/proc/{pid}/stat").rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(pid))
        found, todo = [], [self.pid]
        while todo:
            found.append(todo.pop())
            todo += children.get(found[-1], [])
        return found

    def stop(self):
        if self.alive():
            descendants = self.tree()[1:]
            self.popen.terminate()
            try:
                self.popen.wait(3)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()
            for pid in descendants:
                try:
                    os.kill(pid, signal.SIGKILL)
                except OSError:
                    pass
        if self in Process.running:
            Process.running.remove(self)

    @classmethod
    def stop_all(cls):
        for process in cls.running[::-1]:
            process.stop()


def threads(pids):
    for pid in pids:
        try:
            yield from ((pid, int(thread)) for thread in os.listdir(f"/proc/{pid}/task"))
        except OSError:
            continue


def cpu_ns(pids):
    """How long all threads of these processes have run, exactly."""
    total = 0
    for pid, thread in threads(pids):
        try:
            total += int(read(f"/proc/{pid}/task/{thread}/schedstat").split()[0])
        except OSError:
            continue
    return total


def move(pids, cpu):
    for _, thread in threads(pids):
        try:
            os.sched_setaffinity(thread, {cpu})
        except OSError:
            continue


def memory(pids):
    """Bytes: resident (`rss`), with shared pages divided among those who share them (`pss`), the most so far (`peak`)."""
    names = {"Rss": "rss", "Pss": "pss", "VmHWM": "peak"}
    total = dict.fromkeys(names.values(), 0)
    for pid in pids:
        try:
            lines = read(f"/proc/{pid}/smaps_rollup") + read(f"/proc/{pid}/status")
        except OSError:
            continue
        for line in lines.splitlines():
            name, _, value = line.partition(":")
            if name in names:
                total[names[name]] += int(value.split()[0]) * 1024
    return total


def forget_peak(pids):
    for pid in pids:
        write(f"/proc/{pid}/clear_refs", "5")
