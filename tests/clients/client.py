"""Python's own HTTP clients: each prints the body it got, a line each, as JSON."""
import http.client
import json
import sys
import urllib.request
from urllib.parse import urlsplit

url = sys.argv[1]
host = urlsplit(url).netloc

# A GET, and a POST of a known length.
print(json.dumps(json.load(urllib.request.urlopen(f"{url}/python?get"))))
request = urllib.request.Request(f"{url}/python?post", data=b"from urllib", headers={"Content-Type": "text/plain"})
print(json.dumps(json.load(urllib.request.urlopen(request))))

# Two requests on one connection; the second has a chunked body.
connection = http.client.HTTPConnection(host)
connection.request("PUT", "/python?put", body=b"known length")
print(json.dumps(json.load(connection.getresponse())))
connection.request("POST", "/python?chunked", body=iter([b"in ", b"chunks"]), encode_chunked=True,
                   headers={"Transfer-Encoding": "chunked"})
print(json.dumps(json.load(connection.getresponse())))
