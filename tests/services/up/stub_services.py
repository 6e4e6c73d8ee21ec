"""Stands in for MLOC's services under `mloc up`: `stub_services.py NAME`. BROKEN, CRASHING, STUCK name one that misbehaves."""

import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

name = sys.argv[1]
print(f"{name} starts", flush=True)
if os.environ.get("BROKEN") == name:
    print("LIMIT=x cannot be used", flush=True)
    sys.exit(78)
if os.environ.get("CRASHING") == name:
    sys.exit(1)
stopped = threading.Event()
signal.signal(signal.SIGTERM, signal.SIG_IGN if os.environ.get("STUCK") == name else lambda *_: stopped.set())


class Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


if name == "worker":
    import redis

    event = {"worker": "w", "results": os.environ["RESULTS_DIR"], "heartbeat": os.environ["HEARTBEAT_INTERVAL_SEC"], "pid": os.getpid()}
    redis.Redis.from_url(os.environ["REDIS_URL"]).xadd("{mloc}:events", {"type": "WorkerRegistered", "data": json.dumps(event)})
if name == "intake-api":
    server = HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Healthy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
while not stopped.wait(0.05):
    pass
print(f"{name} stopped", flush=True)
