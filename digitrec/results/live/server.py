"""The server of the live page: on 127.0.0.1 only, for whoever knows its address, read-only."""

import hashlib
import hmac
import secrets
import sys
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

from digitrec.errors import DamagedError
from digitrec.store.folder import Folder, describe_error

NICENESS = 10  # of a process that serves: training comes first
ADDRESS = "127.0.0.1"
HOSTS = (ADDRESS, "localhost")  # other names may be a stranger's that he makes point here
LEAST_PAUSE = 1.0  # seconds between two looks at the files
REST = 4.0  # times the seconds that the last page took, until the next one is made
TIMEOUT = 20.0  # seconds for a request

HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Editions:
    """The newest page; made when somebody asks, so a page that nobody looks at costs nothing."""

    def __init__(self, directory: Folder) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._page: Any = None
        self._made_from: object = None
        self._content, self._version, self._due = b"", "", 0.0

    def newest(self) -> tuple[bytes, str]:
        """Return the page and its version.

        Raises:
            OSError, DamagedError: the study directory cannot be read.
        """
        with self._lock:
            if time.monotonic() >= self._due:
                page = self._import_page()
                began = time.monotonic()
                self._make(page)
                took = time.monotonic() - began
                self._due = time.monotonic() + max(LEAST_PAUSE, REST * took)
            return self._content, self._version

    @property
    def policy(self) -> str:
        """The content security policy of the page."""
        return "default-src 'none'" if self._page is None else str(self._page.policy)

    def _import_page(self) -> Any:
        """Return what makes the pages; its figures take seconds to import."""
        if self._page is None:
            from digitrec.results.live.page import LivePage

            self._page = LivePage(self._directory)
        return self._page

    def _make(self, page: Any) -> None:
        signature = page.signature()
        if signature != self._made_from:
            self._content = page.make(*signature).encode()
            self._version = hashlib.sha256(self._content).hexdigest()[:16]
            self._made_from = signature


class LiveServer(ThreadingHTTPServer):
    """A server of the live page of a study directory at a path that cannot be guessed."""

    def __init__(self, directory: Folder) -> None:
        super().__init__((ADDRESS, 0), Handler)
        self.editions = Editions(directory)
        self.path = f"/{secrets.token_urlsafe(24)}/"

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{ADDRESS}:{self.server_port}{self.path}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a connection that a browser has cut or left open."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD of the page, and nothing else."""

    server: LiveServer
    server_version, sys_version = "digitrec", ""
    timeout = TIMEOUT

    def do_GET(self) -> None:
        """Send the page; with `?since=` its version, nothing if it is the newest."""
        host, _, _ = self.headers.get("Host", "").partition(":")  # a tunnel has another port
        if host.lower() not in HOSTS:
            self._answer(HTTPStatus.FORBIDDEN, b"This page is for this computer only.\n")
            return
        path, _, query = self.path.partition("?")
        if not hmac.compare_digest(path.encode(), self.server.path.encode()):
            self._answer(HTTPStatus.NOT_FOUND, b"There is no such page.\n")
            return
        try:
            content, version = self.server.editions.newest()
        except (OSError, DamagedError) as error:
            said = describe_error(error) if isinstance(error, OSError) else str(error)
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{said}\n".encode())
            return
        if parse_qs(query).get("since") == [version]:
            self._answer(HTTPStatus.NO_CONTENT, b"")
        else:
            self._answer(HTTPStatus.OK, content, "text/html", version)

    do_HEAD = do_GET

    def _refuse(self) -> None:
        self._answer(HTTPStatus.METHOD_NOT_ALLOWED, b"Only GET and HEAD.\n")

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_TRACE = do_CONNECT = _refuse

    def _answer(
        self, status: HTTPStatus, content: bytes, kind: str = "text/plain", version: str = ""
    ) -> None:
        policy = self.server.editions.policy if kind == "text/html" else "default-src 'none'"
        self.send_response(status)
        headers = HEADERS | {"Content-Security-Policy": f"{policy}; frame-ancestors 'none'"}
        headers |= {"ETag": version} if version else {}
        headers |= {"Refresh": "2"} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}
        headers |= {"Allow": "GET, HEAD"} if status == HTTPStatus.METHOD_NOT_ALLOWED else {}
        if status != HTTPStatus.NO_CONTENT:
            headers |= {"Content-Type": f"{kind}; charset=utf-8"}
            headers |= {"Content-Length": str(len(content))}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Keep the terminal for the study."""
