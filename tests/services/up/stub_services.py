"""Stands in for MLOC's services under `mloc up`: `stub_services.py NAME`. BROKEN, CRASHING, STUCK name one that misbehaves; ROBBED an API
whose port another process took: it answers as that one would a few times, then ends as an API does that cannot listen."""

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
answers: list[str] = []
signal.signal(signal.SIGTERM, signal.SIG_IGN if os.environ.get("STUCK") == name else lambda *_: stopped.set())


class Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        robbed = os.environ.get("ROBBED") == name
        answers.append(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"ok": True, "pid": os.getppid() if robbed else os.getpid()}).encode())
        if robbed and len(answers) > 3:
            print(f"port {os.environ['PORT']} is in use", flush=True)
            os._exit(78)

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
