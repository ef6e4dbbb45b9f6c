"""A headless Chromium for tests, spoken to over a pipe.

https://chromedevtools.github.io/devtools-protocol: messages are JSON, each
ended by a NUL, on descriptors 3 (to the browser) and 4 (from it).
"""

import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

PATH = shutil.which("chromium") or shutil.which("chromium-browser")
_TIMEOUT_SECS = 60.0


class Page:
  """A page of a browser of its own.

  Attributes:
    events: What the browser told, in order.
  """

  def __init__(self, width=1400, height=1000):
    self._directory = tempfile.TemporaryDirectory(prefix="r1jax-browser-")
    to_read, to_write = (_high(fd) for fd in os.pipe())
    from_read, from_write = (_high(fd) for fd in os.pipe())

    def wire():
      os.dup2(to_read, 3)
      os.dup2(from_write, 4)

    self._process = subprocess.Popen(
      [
        PATH,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        f"--user-data-dir={self._directory.name}",
        "--remote-debugging-pipe",
        "about:blank",
      ],
      pass_fds=(3, 4),
      preexec_fn=wire,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
    )
    os.close(to_read)
    os.close(from_write)
    self._to, self._from = to_write, from_read
    self._received, self._last = b"", 0
    self._session = None
    self.events = []
    target = self.call("Target.createTarget", url="about:blank")["targetId"]
    self._session = self.call(
      "Target.attachToTarget", targetId=target, flatten=True
    )["sessionId"]
    for domain in ("Page", "Runtime", "Network", "Log"):
      self.call(f"{domain}.enable")
    self.resize(width, height)

  def close(self):
    """Ends the browser."""
    self._session = None
    self.call("Browser.close")
    self._process.wait(_TIMEOUT_SECS)
    os.close(self._to)
    os.close(self._from)
    self._directory.cleanup()

  def resize(self, width, height):
    """Makes the page so many pixels wide and high."""
    self.call(
      "Emulation.setDeviceMetricsOverride",
      width=width,
      height=height,
      deviceScaleFactor=1,
      mobile=False,
    )

  def open(self, path):
    """Opens a file from disk and waits until it is loaded."""
    self.call("Page.navigate", url=f"file://{os.path.abspath(path)}")
    self.wait_for("document.readyState === 'complete'")

  def evaluate(self, code):
    """The value of JavaScript code in the page."""
    found = self.call(
      "Runtime.evaluate",
      expression=code,
      returnByValue=True,
      awaitPromise=True,
    )
    assert "exceptionDetails" not in found, found["exceptionDetails"]
    return found["result"].get("value")

  def wait_for(self, code):
    """Waits until JavaScript code is true in the page."""
    end = time.monotonic() + _TIMEOUT_SECS
    while not self.evaluate(code):
      assert time.monotonic() < end, f"never true: {code}"
      time.sleep(0.05)

  def press(self, key):
    """Presses a key, by its name in DOM events."""
    for kind in ("rawKeyDown", "keyUp"):
      self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

  def call(self, method, **params):
    """The result of a command of the protocol."""
    self._last += 1
    message = {"id": self._last, "method": method, "params": params}
    if self._session:
      message["sessionId"] = self._session
    os.write(self._to, json.dumps(message).encode() + b"\0")
    while True:
      answer = self._receive()
      if answer.get("id") == self._last:
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]
      self.events.append(answer)

  def _receive(self):
    while b"\0" not in self._received:
      ready, _, _ = select.select([self._from], [], [], _TIMEOUT_SECS)
      assert ready, "the browser does not answer"
      received = os.read(self._from, 1 << 20)
      assert received, "the browser ended"
      self._received += received
    message, self._received = self._received.split(b"\0", 1)
    return json.loads(message)


def _high(descriptor):
  """The descriptor, moved away from those that the browser is given."""
  moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
  os.close(descriptor)
  return moved
