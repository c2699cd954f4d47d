"""A stand-in for Google Cloud Storage that can read objects: a bucket is a directory of files.

    python -m tests.google_storage DIRECTORY

prints the port that it serves on. It needs its own process: pyarrow's client holds Python's lock
while it waits for some of the answers.

Source: https://cloud.google.com/storage/docs/json_api/v1/objects/get
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NoReturn
from urllib.parse import unquote, urlsplit


class Objects(BaseHTTPRequestHandler):
    """Answers for the objects in a folder."""

    protocol_version = "HTTP/1.1"
    folder: Path

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        bucket, _, key = address.path.removeprefix("/storage/v1/b/").partition("/o/")
        path = self.folder / bucket / unquote(key)
        if not path.is_file():
            self._answer(404, b'{"error": {"code": 404, "message": "No such object"}}')
        elif "alt=media" in address.query:
            self._answer(200, path.read_bytes())
        else:
            about = {"kind": "storage#object", "bucket": bucket, "name": unquote(key)}
            about |= {"generation": "1", "size": str(path.stat().st_size)}
            self._answer(200, json.dumps(about).encode())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("x-goog-generation", "1")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Stay silent."""


def main() -> NoReturn:
    Objects.folder = Path(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Objects)
    print(server.server_port, flush=True)
    server.serve_forever()
    raise SystemExit


if __name__ == "__main__":
    main()
