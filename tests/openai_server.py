"""A small real HTTP server that speaks OpenAI's protocol, and fails as real ones do.

with OpenAIServer(lambda request: "javob") as server:
    uzbench run --backend api --base-url {server.url} …
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

from local_server import LocalServer

Request = dict[str, Any]


class OpenAIServer(LocalServer):
    """Answers /v1/completions and /v1/chat/completions on this machine.

    answer: a request's document to the text of its answer. faults: taken one a request before any answer is given:
    an HTTP status, "cut" (the connection ends in the middle), "malformed" (no JSON), "null" (no content).
    delay_s: what an answer takes. requests: the documents received, those of faults too.
    """

    def __init__(
        self, answer: Callable[[Request], str], *, faults: tuple[int | str, ...] = (), delay_s: float = 0.0
    ) -> None:
        self.answer, self.faults, self.delay_s = answer, list(faults), delay_s
        self.requests: list[Request] = []
        self._lock = threading.Lock()
        super().__init__(self._handler())

    @property
    def url(self) -> str:
        return f"{super().url}/v1"

    def take(self, request: Request) -> int | str | None:
        """Notes a request; the fault it meets, or None."""
        with self._lock:
            self.requests.append(request)
            return self.faults.pop(0) if self.faults else None

    def document(self, path: str, request: Request, fault: int | str | None) -> dict[str, Any]:
        """What is answered, in the form of its path."""
        if path.endswith("/chat/completions"):
            content = None if fault == "null" else self.answer(request)
            message = {"role": "assistant", "content": content}
            choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        else:
            prompts = request["prompt"] if isinstance(request["prompt"], list) else [request["prompt"]]
            choices = [
                {"index": number, "text": self.answer({**request, "prompt": prompt}), "finish_reason": "stop"}
                for number, prompt in enumerate(prompts)
            ]
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        return {"id": "x", "object": "completion", "model": request.get("model"), "choices": choices, "usage": usage}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                fault = server.take(request)
                time.sleep(server.delay_s)
                if isinstance(fault, int):
                    self._send(fault, b'{"error": {"message": "planted"}}')
                    return
                body = json.dumps(server.document(self.path, request, fault)).encode()
                if fault == "malformed":
                    body = b"<html>not JSON"
                if fault == "cut":
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body[: len(body) // 2])
                    self.close_connection = True
                    return
                self._send(200, body)

            def _send(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet: what failed is in the test."""

        return Handler
