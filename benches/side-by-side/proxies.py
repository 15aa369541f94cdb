"""What runs: the upstreams, the peers and the project's binary, each from a template, in a folder of its own."""
import base64
import glob
import http.client
import os
import re
import secrets
import shutil
import subprocess
import tempfile
import time

from machine import CPU_LOAD, CPU_PROXY, Process, free_port, read, write

HERE = os.path.dirname(os.path.abspath(__file__))
TARGET = os.path.join(HERE, "../../target")
TOKEN = "bench-token"
AUTHORIZATION = f"Authorization: Bearer {TOKEN}"
OURS = "tokenbroker"
PEERS = ["relay", "nginx", "haproxy", "envoy", "pingora"]
START_LONGEST_S = 90


def say(text):
    os.write(2, f"{text}\n".encode())


def binary(name):
    """Where a program is, or None."""
    path = os.environ["PATH"] + ":/usr/sbin"
    places = {
        "kit": f"{TARGET}/side-by-side/kit/release/kit",
        "pingora": f"{TARGET}/side-by-side/pingora/release/peer-pingora",
        "envoy": f"{TARGET}/side-by-side/venv/lib/python*/site-packages/envoy/_bin/envoy",
        OURS: f"{TARGET}/release/tokenbroker",
    }
    place = places.get("kit" if name == "relay" else name, "")
    return next(iter(glob.glob(place)), None) or shutil.which(name, path=path)


def version(name):
    if name in ("relay", "pingora"):
        locked = re.search(r'name = "pingora"\nversion = "(.*)"', read(f"{HERE}/peers/pingora/Cargo.lock"))
        return locked.group(1) if name == "pingora" else ""
    flag = "-v" if name in ("nginx", "haproxy") else "--version"
    run = subprocess.run([binary(name), flag], capture_output=True, text=True, check=False)
    found = re.search(r"\d+\.\d+\.\d+", run.stdout + run.stderr)
    return found.group() if found else ""


def get(port, path="/b/16", headers=()):
    """Status and body of a GET on loopback, or None."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        fields = dict(line.split(": ", 1) for line in headers)
        connection.request("GET", path, headers={"Host": "127.0.0.1", "Connection": "close", **fields})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


class Running:
    """Where to send requests, with what, and whose work is measured."""

    def __init__(self, port, process=None, headers=(), admin=None, folder=None):
        self.port, self.process, self.headers, self.admin, self.folder = port, process, headers, admin, folder

    def pids(self):
        return self.process.tree() if self.process else []


class Proxies:
    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="side-by-side-")
        self.failed = []
        self.upstreams = {}
        self.running = {}
        self.ready = {}
        self.certs = {}
        self.kit = binary("kit")
        for cpu in {CPU_PROXY, CPU_LOAD}:
            Process([self.kit, "awake", "--cpu", str(cpu)], cpu)
        self.upstreams["plain"] = self.upstream(CPU_LOAD)
        if shutil.which("openssl") and binary("nginx"):
            self.make_certificates()
            for mode in ("tls", "mtls"):
                self.upstreams[mode] = self.upstream_nginx(mode)

    def upstream(self, cpu):
        """A kit's upstream, which is a token endpoint as well; its port."""
        port = free_port()
        argv = [self.kit, "upstream", "--listen", f"127.0.0.1:{port}", "--auth", AUTHORIZATION.split(": ")[1]]
        Process(argv, cpu)
        return port

    def upstream_nginx(self, mode):
        port = free_port()
        folder = self.new_folder(f"upstream-{mode}")
        os.makedirs(f"{folder}/www/b")
        for n in (16, 1024):
            write(f"{folder}/www/b/{n}", "x" * n)
        conf = self.fill("upstream-tls.conf", folder, {mode}, LISTEN_PORT=port)
        Process([binary("nginx"), "-p", folder, "-c", conf, "-e", f"{folder}/error.log"], CPU_LOAD, f"{folder}/log")
        return port

    def new_folder(self, name):
        folder = f"{self.folder}/{len(os.listdir(self.folder))}-{name}"
        os.mkdir(folder, 0o700)
        return folder

    def make_certificates(self):
        folder = self.new_folder("certificates")

        def openssl(*args):
            subprocess.run(["openssl", *args], cwd=folder, check=True, capture_output=True)

        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        openssl("req", "-x509", *key, "-days", "2", "-subj", "/CN=side-by-side", "-keyout", "ca.key", "-out", "ca.pem",
                "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign")
        for name, usage in (("server", "serverAuth"), ("client", "clientAuth")):
            openssl("req", *key, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
            write(f"{folder}/{name}.ext", f"subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage={usage}\n"
                                          "basicConstraints=CA:FALSE\n")
            openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                    "-days", "2", "-extfile", f"{name}.ext", "-out", f"{name}.pem")
        write(f"{folder}/client.pair", read(f"{folder}/client.pem") + read(f"{folder}/client.key"))
        files = {"CA": "ca.pem", "SERVER_CERT": "server.pem", "SERVER_KEY": "server.key",
                 "CERT": "client.pem", "KEY": "client.key", "PAIR": "client.pair"}
        self.certs = {name: f"{folder}/{file}" for name, file in files.items()}

    def fill(self, template, folder, tags, extra="", **names):
        """Writes a template with its @@NAMES@@ filled in; a line that starts with #TAG stays where the tag holds."""
        mtls = {"tls"} if "mtls" in tags else set()
        names = {"DIR": folder, "TOKEN": TOKEN, "TOKEN_PORT": self.upstreams.get("plain"), **self.certs, **names}
        names["SCHEME"] = "https" if tags & {"tls", "mtls"} else "http"
        lines = []
        for line in read(f"{HERE}/templates/{template}").splitlines():
            tag, rest = re.match(r"(?:#([a-z]+)(?=\s))?(.*)", line).groups()
            if tag is None or tag in tags | mtls:
                lines.append(re.sub(r"@@(\w+?)@@", lambda name: str(names[name.group(1)]), rest))
        path = f"{folder}/{template}"
        write(path, "\n".join(lines) + "\n" + extra)
        return path

    def command(self, name, folder, port, upstream, mode):
        """The command line of a peer."""
        def fill(template):
            return self.fill(template, folder, {mode}, LISTEN_PORT=port, UPSTREAM_PORT=upstream)

        program, listen = binary(name), f"127.0.0.1:{port}"
        if name == "relay":
            return [program, "relay", "--listen", listen, "--to", f"127.0.0.1:{upstream}"]
        if name == "nginx":
            return [program, "-p", folder, "-c", fill("nginx.conf"), "-e", f"{folder}/error.log"]
        if name == "haproxy":
            return [program, "-db", "-f", fill("haproxy.cfg")]
        if name == "envoy":
            return [program, "-c", fill("envoy.yaml"), "--concurrency", "1", "--disable-hot-restart", "-l", "warn"]
        certs = {"plain": [], "tls": ["CA"], "mtls": ["CA", "CERT", "KEY"]}[mode]
        return [program, listen, f"127.0.0.1:{upstream}", TOKEN] + [self.certs[file] for file in certs]

    def ours(self, mode="plain", tags=("store",), args=(), extra="", token=None, name="broker", upstream=None):
        """Starts the project's binary: `tags` choose lines of its template, `extra` stands behind them."""
        port, admin, folder = free_port(), free_port(), self.new_folder(name)
        key = secrets.token_hex(16)
        write(f"{folder}/key", key)
        write(f"{folder}/store_key", base64.b64encode(secrets.token_bytes(32)).decode())
        token_port, token_path = token or (self.upstreams["plain"], "/token")
        upstream = upstream or self.upstreams[mode]
        conf = self.fill("tokenbroker.toml", folder, {mode, *tags},
                         extra.replace("LISTEN_PORT", str(port)).replace("UPSTREAM_PORT", str(upstream)),
                         LISTEN_PORT=port, ADMIN_PORT=admin, UPSTREAM_PORT=upstream, TOKEN_PORT=token_port,
                         TOKEN_PATH=token_path)
        argv = [binary(OURS), *args, "-c", conf, "run"]
        headers = [f"X-Tokenbroker-Key: {key}"] if "key" in tags else []
        process = Process(argv, CPU_PROXY, f"{folder}/log")
        to = Running(port, process, headers, admin, folder)
        return argv, self.answering(to, name, argv, (admin, "/readyz"))

    def peer(self, name, mode, upstream=None, cpu=CPU_PROXY):
        port, folder = free_port(), self.new_folder(f"{name}-{mode}")
        argv = self.command(name, folder, port, upstream or self.upstreams[mode], mode)
        process = Process(argv, cpu, f"{folder}/log")
        headers = [AUTHORIZATION] if name == "relay" else []
        to = Running(port, process, headers, folder=folder)
        return argv, self.answering(to, name, argv, (port, "/b/16"))

    def launch(self, name, mode="plain"):
        """Starts a proxy and waits until it answers: its command line, and where it runs, or None."""
        return self.ours(mode) if name == OURS else self.peer(name, mode)

    def answering(self, to, name, argv, asked):
        end = time.monotonic() + START_LONGEST_S
        while to.process.alive() and time.monotonic() < end:
            answer = get(*asked, headers=to.headers)
            if answer and answer[0] == 200:
                return to
            time.sleep(0.005)
        say(f"{name} did not answer: {' '.join(argv)}\n{read(to.folder + '/log')[-1500:]}")
        self.fail(f"{name} did not start")
        to.process.stop()
        return None

    def get(self, name, mode="plain"):
        """A proxy that stands ready for as long as this program runs."""
        if (name, mode) not in self.running:
            direct = Running(self.upstreams["plain"], headers=[AUTHORIZATION])
            self.running[name, mode] = direct if name == "direct" else self.launch(name, mode)[1]
        return self.running[name, mode]

    def fail(self, what):
        if what not in self.failed:
            self.failed.append(what)

    def close(self):
        Process.stop_all()
        shutil.rmtree(self.folder, ignore_errors=True)
