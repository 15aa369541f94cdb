"""httpbin with a log of its own: a line for each request, `METHOD path status`, on stdout after the line with its port."""

import sys

from httpbin import app
from werkzeug.serving import WSGIRequestHandler, make_server


class Logged(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_request(self, code="-", size="-"):
        print(self.command, self.path, getattr(code, "value", code), flush=True)

    def log(self, *_):
        pass


server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Logged)
print(server.server_port, flush=True)
server.serve_forever()
