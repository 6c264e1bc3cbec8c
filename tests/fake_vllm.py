"""A server with the part of vLLM's HTTP API that celora uses, as its documentation describes it; without a model.

The documentation: "LoRA Adapters, Dynamically serving LoRA Adapters" and "OpenAI-Compatible Server" of vLLM 0.33. An
answer is the name of the model and the last message, word by word.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CONTEXT_CHARACTERS = 1000


class FakeVllm(ThreadingHTTPServer):
    """Serves one base on a port of its own; ``with`` starts and ends it."""

    daemon_threads = True

    def __init__(self, base, key=""):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.base, self.key = base, key
        self.adapters, self.loads, self.unloads, self.asked = {}, [], [], []
        self.keeps_adapters = False
        self.hold = threading.Event()
        self.hold.set()
        self.broken = threading.Event()
        self.forgets_after_list = False
        self._thread = threading.Thread(target=self.serve_forever, daemon=True)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.hold.set()
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Print nothing."""

    def do_GET(self):
        if self._refused() or self.path != "/v1/models":
            return
        base = {"id": self.server.base, "object": "model", "root": self.server.base, "parent": None}
        loras = [{"id": name, "object": "model", "root": path, "parent": self.server.base}
                 for name, path in self.server.adapters.items()]  # fmt: skip
        self._send(200, {"object": "list", "data": [base, *loras]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self._refused():
            return
        if self.path == "/v1/load_lora_adapter":
            self._load(body["lora_name"], body["lora_path"])
        elif self.path == "/v1/unload_lora_adapter":
            self._unload(body["lora_name"])
        elif self.path == "/v1/chat/completions":
            self._chat(body)
        else:
            self._error(404, "Not Found")

    def _load(self, name, path):
        self.server.loads.append((name, path))
        if name in self.server.adapters:
            self._error(400, f"The lora adapter '{name}' has already been loaded.")
            return
        if Path(path).is_dir():  # else it says Success all the same, as versions of 2025 did
            self.server.adapters[name] = path
        self._text(200, f"Success: LoRA adapter '{name}' added successfully.")

    def _unload(self, name):
        self.server.unloads.append(name)
        if self.server.keeps_adapters:  # VLLM_ALLOW_RUNTIME_LORA_UPDATING is not set: the route is not there
            self._error(404, "Not Found")
        elif self.server.adapters.pop(name, None) is None:
            self._error(404, f"The lora adapter '{name}' cannot be found.")
        else:
            self._text(200, f"Success: LoRA adapter '{name}' removed successfully.")

    def _chat(self, body):
        self.server.asked.append(body)
        if self.server.forgets_after_list:
            self.server.forgets_after_list = False
            self.server.adapters.clear()
        name, said = body["model"], body["messages"][-1]["content"]
        if name not in {self.server.base, *self.server.adapters}:
            self._error(404, f"The model `{name}` does not exist.")
        elif len(said) > CONTEXT_CHARACTERS:
            self._error(400, "This model's maximum context length is 1000 tokens. Please reduce the length.")
        else:
            self._stream(name, said)

    def _stream(self, name, said):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": name}
        deltas = [{"role": "assistant", "content": ""}, *({"content": f" {word}"} for word in (name, *said.split()))]
        try:
            for delta in deltas:
                self._chunk({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
                self.server.hold.wait(200)
            last = {"index": 0, "delta": {"content": " "}, "finish_reason": "stop", "stop_reason": None}
            self._chunk({**head, "choices": [last]})
            usage = {"prompt_tokens": 5, "completion_tokens": len(deltas), "total_tokens": 5 + len(deltas)}
            self._chunk({**head, "choices": [], "usage": usage})
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            self.server.broken.set()
        self.close_connection = True

    def _chunk(self, chunk):
        self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())

    def _refused(self):
        if self.server.key and self.headers["authorization"] != f"Bearer {self.server.key}":
            self._send(401, {"error": "Unauthorized"})
            return True
        return False

    def _error(self, status, message):
        self._send(status, {"error": {"message": message, "type": "BadRequestError", "param": None, "code": status}})

    def _send(self, status, body):
        self._text(status, json.dumps(body), "application/json")

    def _text(self, status, text, kind="text/plain"):
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())
