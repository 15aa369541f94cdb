"""A server of Python's standard library that counts: `METHOD STATUS LENGTH TARGET` for each request, on stdout.

Its port is the argument."""

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

lock = threading.Lock()


class Broken(Exception):
    pass


class Counting(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 75

    def __getattr__(self, name):
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)

    def answer(self):
        try:
            length = self.body()
        except (Broken, ValueError):
            self.close_connection = True
            return self.told("400", "")
        self.told("200", length)
        self.send_response(200)
        self.send_header("Content-Length", "3")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(b"ok\n")

    def body(self):
        coding, lengths = self.headers.get_all("transfer-encoding"), self.headers.get_all("content-length")
        if coding is None:
            length = int(lengths[0]) if lengths else 0
            if len(self.rfile.read(length)) < length:
                raise Broken
            return length
        if lengths or coding != ["chunked"]:
            raise Broken
        total = 0
        while True:
            line = self.rfile.readline()
            if not line.endswith(b"\r\n"):
                raise Broken
            size = int(line, 16)
            if size == 0:
                break
            total += len(self.rfile.read(size))
            if self.rfile.read(2) != b"\r\n":
                raise Broken
        if self.rfile.readline() != b"\r\n":
            raise Broken
        return total

    def send_error(self, code, message=None, explain=None):
        self.told(str(int(code)), "")
        super().send_error(code, message, explain)

    def told(self, status, length):
        # What it makes of the target, such as one `/` of two at the start, is not what came.
        words = self.raw_requestline.split(b" ")
        line = b"%s %s %s %s\n" % (words[0], status.encode(), str(length).encode(), words[1] if len(words) > 1 else b"")
        with lock:
            sys.stdout.buffer.write(line.replace(b"\r", b""))
            sys.stdout.buffer.flush()

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 1024
    daemon_threads = True


Server(("127.0.0.1", int(sys.argv[1])), Counting).serve_forever()
