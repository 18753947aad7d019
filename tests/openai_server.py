"""A small real HTTP server that speaks OpenAI's protocol, and fails as real ones do.

with OpenAIServer(lambda request: "javob") as server:
    uzbench run --backend api --base-url {server.url} …
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from local_server import LocalServer

Request = dict[str, Any]


@dataclass(frozen=True)
class Fault:
    """How a request fails.

    status: an HTTP error with these headers and this body. kind: "cut" (the connection ends in the middle),
    "malformed" (no JSON), "null" (no content), "form" (JSON of another form), "stall" (nothing for the server's
    stall_s), "refusal", "length" (cut at the limit), "usage" (counts that can't be true).
    """

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = '{"error": {"message": "planted"}}'
    kind: str = ""

    @classmethod
    def of(cls, what: int | str | Fault | None) -> Fault | None:
        if isinstance(what, Fault) or what is None:
            return what
        return cls(status=what) if isinstance(what, int) else cls(kind=what)


def tokens(text: str) -> int:
    """A text's tokens: about as many as GPT-4o's tokenizer finds in Uzbek, never more than its bytes."""
    return max(1, round(len(text) / 2.75))


class OpenAIServer(LocalServer):
    """Answers /v1/completions, /v1/chat/completions, /v1/files and /v1/batches on this machine.

    answer: a request's document to the text of its answer. faults: taken one a request before any answer is given, or
    a function of the request. delay_s: what an answer takes. headers: of every answer. schemas: whether it knows
    response_format. requests: the documents received, those of faults too. usages: (input, output) of every answer
    that was made, also of those that never arrived, as a real server bills them. batch_polls: how often a batch is
    still under way when it is looked at.
    """

    def __init__(
        self,
        answer: Callable[[Request], str],
        *,
        faults: tuple[int | str | Fault, ...] | Callable[[Request], int | str | Fault | None] = (),
        delay_s: float = 0.0,
        stall_s: float = 30.0,
        headers: Mapping[str, str] | None = None,
        schemas: bool = True,
        batch_faults: Callable[[Request], bool] = lambda request: False,
        batch_polls: int = 1,
    ) -> None:
        self.answer, self.delay_s, self.stall_s, self.schemas = answer, delay_s, stall_s, schemas
        self.faults = faults if callable(faults) else list(faults)
        self.headers = dict(headers or {})
        self.batch_faults, self.batch_polls = batch_faults, batch_polls
        self.requests: list[Request] = []
        self.usages: list[tuple[int, int]] = []
        self.authorizations: set[str] = set()
        self.most_at_once = 0
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self._at_once = 0
        self._lock = threading.Lock()
        super().__init__(self._handler())

    @property
    def url(self) -> str:
        return f"{super().url}/v1"

    def usd(self, input_price: float, output_price: float) -> float:
        """What everything that was made costs, at US dollars a million tokens."""
        return sum(a * input_price + b * output_price for a, b in self.usages) / 1_000_000

    def take(self, request: Request) -> Fault | None:
        """Notes a request; the fault it meets, or None."""
        with self._lock:
            self.requests.append(request)
            if callable(self.faults):
                return Fault.of(self.faults(request))
            return Fault.of(self.faults.pop(0)) if self.faults else None

    def document(self, path: str, request: Request, kind: str = "") -> dict[str, Any]:
        """What is answered, in the form of its path."""
        if path.endswith("/chat/completions"):
            content: str | None = None if kind in ("null", "refusal") else self.answer(request)
            if kind == "length":
                content = (content or "")[: len(content or "") // 2]
            message = {"role": "assistant", "content": content}
            if kind == "refusal":
                message["refusal"] = "I can't help with that."
            choices = [{"index": 0, "message": message, "finish_reason": "length" if kind == "length" else "stop"}]
            told, said = "".join(str(each["content"]) for each in request["messages"]), content or ""
        else:
            prompts = request["prompt"] if isinstance(request["prompt"], list) else [request["prompt"]]
            texts = [self.answer({**request, "prompt": prompt}) for prompt in prompts]
            choices = [{"index": number, "text": text, "finish_reason": "stop"} for number, text in enumerate(texts)]
            told, said = "".join(map(str, prompts)), "".join(texts)
        used = tokens(told), tokens(said)
        with self._lock:
            self.usages.append(used)
        usage = {"prompt_tokens": used[0], "completion_tokens": used[1], "total_tokens": sum(used)}
        if kind == "usage":
            usage = {"prompt_tokens": -5, "completion_tokens": 0, "total_tokens": 10**9}
        return {"id": "x", "object": "completion", "model": request.get("model"), "choices": choices, "usage": usage}

    # The Batch API.

    def make_batch(self, document: Request) -> dict[str, Any]:
        """Takes a batch; its lines are answered when it is first looked at."""
        name = f"batch_{len(self.batches)}"
        self.batches[name] = {
            "id": name, "object": "batch", "endpoint": document["endpoint"], "status": "in_progress",
            "input_file_id": document["input_file_id"], "completion_window": "24h", "created_at": int(time.time()),
            "metadata": document.get("metadata"), "polls": 0,
        }  # fmt: skip
        return self.batches[name]

    def look_at_batch(self, name: str) -> dict[str, Any]:
        batch = self.batches[name]
        batch["polls"] += 1
        if batch["status"] == "in_progress" and batch["polls"] > self.batch_polls:
            good, bad = [], []
            for raw in self.files[batch["input_file_id"]].splitlines():
                line = json.loads(raw)
                with self._lock:
                    self.requests.append(line["body"])
                done = {"id": f"r{len(good)}", "custom_id": line["custom_id"], "response": None, "error": None}
                if self.batch_faults(line["body"]):
                    bad.append({**done, "response": {"status_code": 500, "body": {"error": {"message": "planted"}}}})
                else:
                    body = self.document(batch["endpoint"], line["body"])
                    good.append({**done, "response": {"status_code": 200, "body": body}})
            for key, rows in (("output_file_id", good), ("error_file_id", bad)):
                if rows:
                    batch[key] = f"{name}-{key}"
                    self.files[batch[key]] = "\n".join(map(json.dumps, rows)).encode()
            batch["status"] = "completed"
        return batch

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["Content-Length"]))
                server.authorizations.add(str(self.headers["Authorization"]))
                if self.path.endswith("/files"):
                    # multipart/form-data: the file is the part that is JSON lines.
                    name = f"file_{len(server.files)}"
                    lines = [line for line in raw.split(b"\n") if line.startswith(b'{"custom_id"')]
                    server.files[name] = b"\n".join(line.rstrip(b"\r") for line in lines)
                    self._send_json({"id": name, "object": "file", "bytes": len(raw), "purpose": "batch",
                                     "created_at": 0, "filename": "batch.jsonl", "status": "processed"})  # fmt: skip
                    return
                request = json.loads(raw)
                if self.path.endswith("/batches"):
                    self._send_json(server.make_batch(request))
                    return
                self._answer(request)

            def do_GET(self) -> None:
                parts = self.path.partition("?")[0].strip("/").split("/")
                if parts[-1] == "content":
                    self._send(200, server.files[parts[-2]])
                elif parts[-1] == "batches":
                    self._send_json({"object": "list", "data": list(server.batches.values()), "has_more": False})
                elif parts[-2] == "batches" and parts[-1] in server.batches:
                    self._send_json(server.look_at_batch(parts[-1]))
                else:
                    self._send(404, b'{"error": {"message": "nothing here"}}')

            def _answer(self, request: Request) -> None:
                fault = server.take(request)
                with server._lock:
                    server._at_once += 1
                    server.most_at_once = max(server.most_at_once, server._at_once)
                try:
                    time.sleep(server.stall_s if fault and fault.kind == "stall" else server.delay_s)
                finally:
                    with server._lock:
                        server._at_once -= 1
                if fault and fault.status:
                    self._send(fault.status, fault.body.encode(), fault.headers)
                    return
                if "response_format" in request and not server.schemas:
                    self._send(400, b'{"error": {"message": "response_format of type json_schema is unknown here"}}')
                    return
                kind = fault.kind if fault else ""
                body = json.dumps(server.document(self.path, request, kind)).encode()
                if kind == "malformed":
                    body = b"<html>not JSON"
                if kind == "form":
                    body = b'{"choices": []}'
                if kind == "cut":
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body[: len(body) // 2])
                    self.close_connection = True
                    return
                self._send(200, body, server.headers)

            def _send_json(self, document: dict[str, Any]) -> None:
                self._send(200, json.dumps(document).encode())

            def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
                try:
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(body)))
                    for name, value in (headers or {}).items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(body)
                except ConnectionError:
                    # Whoever asked has gone, as after a stall.
                    self.close_connection = True

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet: what failed is in the test."""

        return Handler
