"""HTTP servers on loopback for tests of judges: honest ones and others."""

import contextlib
import http.server
import json
import socket
import threading
import time


class Server:
  """A server on a free port of loopback, and what it was sent.

  Attributes:
    url: As judge_http.connect takes it.
    requests: (headers, body) of each request, the body parsed.
  """

  def __init__(self, handle):
    """Serves each request by `handle(handler, body)`, which sends it all."""
    self.requests = []
    self.stopped = threading.Event()
    owner = self

    class Handler(http.server.BaseHTTPRequestHandler):
      protocol_version = "HTTP/1.1"
      server_stopped = self.stopped

      def do_POST(self):
        self.close_connection = True
        length = int(self.headers["Content-Length"])
        body = json.loads(self.rfile.read(length))
        owner.requests.append((dict(self.headers), self.path, body))
        with contextlib.suppress(OSError):  # The client hung up.
          handle(self, body)

      def log_message(self, *_):
        pass

    self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    self._server.daemon_threads = True
    self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
    self._thread = threading.Thread(
      target=self._server.serve_forever, kwargs={"poll_interval": 0.01}
    )

  def __enter__(self):
    self._thread.start()
    return self

  def __exit__(self, *_):
    self.stopped.set()
    self._server.shutdown()
    self._server.server_close()
    self._thread.join()


def completion(text, finish_reason="stop"):
  """A whole response of the API."""
  message = {"role": "assistant", "content": text}
  choice = {"index": 0, "message": message, "finish_reason": finish_reason}
  return {"object": "chat.completion", "choices": [choice]}


def send(handler, status, body, **headers):
  """Sends a response; a body that is not bytes as JSON."""
  if not isinstance(body, bytes):
    body = json.dumps(body).encode()
  handler.send_response(status)
  headers = {k.replace("_", "-"): v for k, v in headers.items()}
  for name, value in {"Content-Length": len(body), **headers}.items():
    handler.send_header(name, str(value))
  handler.end_headers()
  handler.wfile.write(body)


def says(reply):
  """Handles a request with the text `reply(prompt)`."""

  def handle(handler, body):
    (message,) = body["messages"]
    send(handler, 200, completion(reply(message["content"])))

  return handle


def asks(ask, prompt_type):
  """Handles a request by a judge backend, one at a time."""
  lock = threading.Lock()

  def handle(handler, body):
    (message,) = body["messages"]
    with lock:
      (reply,) = ask([prompt_type(message["content"], body["seed"])])
    finish = "length" if reply.reason else "stop"
    send(handler, 200, completion(reply.text, finish))

  return handle


def in_turn(*handles):
  """Handles each request by the next; the last one stays."""
  left, lock = list(handles), threading.Lock()

  def handle(handler, body):
    with lock:
      chosen = left.pop(0) if len(left) > 1 else left[0]
    chosen(handler, body)

  return handle


def status(code, message="no", **headers):
  """Handles a request with an error of the API."""
  error = {"error": {"message": message}}
  return lambda handler, _: send(handler, code, error, **headers)


def raw(*parts, pause_secs=0.0):
  """Sends the parts as they are, pauses between them, and hangs up."""

  def handle(handler, _):
    for part in parts:
      handler.wfile.write(part)
      handler.wfile.flush()
      if handler.server_stopped.wait(pause_secs):
        return
    with contextlib.suppress(OSError):
      handler.connection.shutdown(socket.SHUT_RDWR)

  return handle


def stall(handler, _):
  """Never says anything."""
  handler.server_stopped.wait()


def drip(data, pause_secs=0.02):
  """A byte after the other, over and over."""

  def handle(handler, _):
    while True:
      for i in range(len(data)):
        handler.wfile.write(data[i : i + 1])
        if handler.server_stopped.wait(pause_secs):
          return

  return handle


def flood(head, block=b"x" * (1 << 16)):
  """The head, then a block over and over; ends with the connection."""

  def handle(handler, _):
    handler.wfile.write(head)
    end = time.monotonic() + 30
    while time.monotonic() < end and not handler.server_stopped.is_set():
      handler.wfile.write(block)

  return handle


def echo_headers(handler, body):
  """Says what it was sent, key and all."""
  del body
  send(handler, 200, completion(str(handler.headers)))


def closed_port():
  """A URL at which nobody listens."""
  with socket.socket() as sock:
    sock.bind(("127.0.0.1", 0))
    return f"http://127.0.0.1:{sock.getsockname()[1]}/v1"
