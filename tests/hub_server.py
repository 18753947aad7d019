"""A small real HTTP server that takes what huggingface_hub uploads, and fails as the hub does.

with HubServer() as server:
    HF_ENDPOINT={server.url} uzbench merge … --push-to-hub owner/name
"""

from __future__ import annotations

import base64
import json
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlparse

from local_server import LocalServer


class HubServer(LocalServer):
    """One repository at most is made, files come in commits, all of them inline.

    fault: an HTTP status that every request meets. requests: method, path and headers of each, as received.
    created: the document of the repository that was made. files: path to content, as committed.
    """

    def __init__(self, fault: int | None = None) -> None:
        self.fault = fault
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.created: dict[str, Any] = {}
        self.files: dict[str, bytes] = {}
        super().__init__(self._handler())

    def answered(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Status and document of one request."""
        if self.fault:
            return self.fault, {"error": "planted"}
        if path == "/api/repos/create":
            self.created = json.loads(body)
            name = f"{self.created.get('organization') or 'owner'}/{self.created['name']}"
            return 200, {"url": f"{self.url}/{name}", "id": name, "name": name}
        if path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            return 200, {
                "files": [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in files]
            }
        if path.endswith("/commit/main"):
            for line in body.splitlines():
                row = json.loads(line)
                if row["key"] == "file":
                    self.files[row["value"]["path"]] = base64.b64decode(row["value"]["content"])
            return 200, {"commitUrl": f"{self.url}/owner/name/commit/abc", "commitOid": "abc", "success": True}
        return 200, {"id": "owner/name", "sha": "abc", "siblings": [], "private": True, "tags": [], "files": []}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                body = self._body()
                path = urlparse(self.path).path
                server.requests.append((self.command, path, dict(self.headers)))
                status, document = server.answered(path, body)
                sent = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

            def _body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length") or 0))
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)

            do_GET = do_POST = _answer

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet: what failed is in the test."""

        return Handler
