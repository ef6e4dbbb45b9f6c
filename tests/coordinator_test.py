"""The coordinator, with sockets of this process in the place of processes."""

import contextlib
import socket
import threading
import time
from unittest import mock

from absl.testing import absltest, parameterized

from r1jax import coordinator, peers

RERUN = "Run the same command again, which resumes."
FACTS = {
  "config": {"config.seed": "0"},
  "code": {"r1jax/a.py": "1"},
  "packages": {"jax": "1"},
}


class Peer:
  """A process as the coordinator sees it."""

  def __init__(self, port, index, count=2, facts=FACTS, host=None):
    self.wire = peers.Wire(socket.create_connection(("localhost", port), 5))
    self.wire.send(
      {
        "index": index,
        "count": count,
        "host": host or f"h{index}",
        "facts": facts,
      }
    )

  def send(self, **message):
    self.wire.send(message)

  def hears(self, kind):
    """What the next message of a kind holds; None at the end."""
    while messages := self.wire.receive():
      for message in messages:
        if kind in message:
          return message[kind]
    return None


class CoordinatorTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    quick = {"_SETTLE_SECS": 0.2, "_CAUSE_SECS": 0.6, "_LINGER_SECS": 0.1}
    for name, secs in quick.items():
      self.enter_context(mock.patch.object(coordinator, name, secs))
    self.service = mock.Mock()
    self.enter_context(
      mock.patch.object(
        coordinator, "_jax_service", lambda _: (77, self.service)
      )
    )

  @contextlib.contextmanager
  def serving(self, count=2, timeout_secs=5.0):
    """(port, what the coordinator returned, once it has)."""
    listener = socket.create_server(("localhost", 0))
    returned = []
    server = coordinator.Coordinator(listener, count, timeout_secs)
    thread = threading.Thread(target=lambda: returned.append(server.run()))
    thread.start()
    yield listener.getsockname()[1], returned
    thread.join(10)
    self.assertFalse(thread.is_alive())
    listener.close()

  def two(self, port):
    both = [Peer(port, 0), Peer(port, 1)]
    for peer in both:
      self.assertEqual(peer.hears("go"), 77)
    return both

  def test_all_come_and_are_done(self):
    with self.serving() as (port, returned):
      both = self.two(port)
      for peer in both:
        peer.send(done=True)
        peer.wire.close()
    self.assertEqual(returned, [None])
    self.service.shutdown.assert_called_once()

  def test_one_does_not_come(self):
    with self.serving(count=4, timeout_secs=0.4) as (port, _):
      there = [Peer(port, 0, 4), Peer(port, 2, 4)]
      lines = [peer.hears("stop") for peer in there]
    self.assertEqual(
      lines,
      [
        "of 4 processes, 1, 3 did not come to the coordinator in 0.4 s. Start "
        "them, or set --num_processes to those there are."
      ]
      * 2,
    )

  @parameterized.parameters(
    ("config", "config.seed", "1", "config.seed is 1 there and 0 in process"),
    ("code", "r1jax/a.py", "2", "r1jax/a.py is 2 there and 1 in process 0"),
    ("code", "r1jax/b.py", "3", "r1jax/b.py is 3 there and none in process"),
    ("packages", "jax", "2", "jax is 2 there and 1 in process 0"),
  )
  def test_one_differs(self, kind, name, value, line):
    facts = FACTS | {kind: FACTS[kind] | {name: value}}
    with self.serving() as (port, _):
      there = [Peer(port, 1, facts=facts), Peer(port, 0)]
      for peer in there:
        found = peer.hears("stop")
        self.assertStartsWith(
          found, f"process 1 (h1) differs from process 0 (h0): {line}"
        )

  def test_two_have_one_number(self):
    with self.serving() as (port, _):
      there = [Peer(port, 1, host="a"), Peer(port, 1, host="b")]
      lines = {peer.hears("stop") for peer in there}
    self.assertLen(lines, 1)
    self.assertRegex(lines.pop(), "both have this --process_id. Start all")

  def test_counts_differ(self):
    with self.serving() as (port, _):
      peer = Peer(port, 1, count=3)
      self.assertEqual(
        peer.hears("stop"),
        "process 1 (h1) was given --num_processes=3, process 0 2. Start all "
        "processes again.",
      )

  def test_another_run_at_the_address(self):
    with self.serving() as (port, returned):
      both = self.two(port)
      late = Peer(port, 0)
      self.assertRegex(late.hears("stop"), "^another run is under way")
      late.wire.close()
      for peer in both:
        peer.send(done=True)
        peer.wire.close()
    self.assertEqual(returned, [None])

  @parameterized.parameters(
    b"GET / HTTP/1.1\r\n\r\n",
    b"[1]\n",
    b"{}\n",
    b'{"index": 2, "count": 2, "host": "h", "facts": {}}\n',
    b"",
  )
  def test_strangers_are_let_pass(self, data):
    with self.serving() as (port, returned):
      stranger = socket.create_connection(("localhost", port), 5)
      stranger.sendall(data)
      both = self.two(port)
      stranger.close()
      for peer in both:
        peer.send(done=True)
        peer.wire.close()
    self.assertEqual(returned, [None])

  def test_one_dies(self):
    with self.serving() as (port, returned):
      both = self.two(port)
      both[1].send(round=6)
      both[1].send(round=7)
      both[0].send(round=8)
      time.sleep(0.1)
      both[1].wire.close()
      line = both[0].hears("stop")
      both[0].wire.close()
    self.assertEqual(
      line,
      "process 1 (h1) ended without a word; the last round it finished is 7. "
      + RERUN,
    )
    self.assertEqual(returned, [line])

  def test_the_first_dies_before_its_first_round(self):
    with self.serving() as (port, _):
      both = self.two(port)
      both[0].wire.close()
      self.assertEqual(
        both[1].hears("stop"),
        "process 0 (h0) ended without a word; it had finished no round. "
        + RERUN,
      )
      both[1].wire.close()

  def test_one_is_silent(self):
    with self.serving(timeout_secs=0.6) as (port, _):
      both = self.two(port)
      stop = threading.Event()

      def beat():
        while not stop.wait(0.1):
          both[0].send(round=3)

      threading.Thread(target=beat).start()
      line = both[0].hears("stop")
      stop.set()
      for peer in both:
        peer.wire.close()
    self.assertRegex(line, r"^process 1 \(h1\) is not heard of for 1 s; it had")

  def test_the_cause_is_named_and_not_what_it_caused(self):
    with self.serving(3) as (port, _):
      three = [Peer(port, i, 3) for i in range(3)]
      for peer in three:
        peer.hears("go")
      three[1].send(failed="UNKNOWN: Connection closed", by_another=True)
      time.sleep(0.5)
      three[2].send(failed="no room", by_another=False)
      three[2].wire.close()
      line = three[0].hears("stop")
      for peer in three:
        peer.wire.close()
    self.assertEqual(line, "process 2 (h2) failed: no room")

  def test_a_failed_collective_without_a_cause(self):
    with self.serving() as (port, _):
      both = self.two(port)
      both[1].send(failed="INTERNAL: link", by_another=True)
      line = both[0].hears("stop")
      for peer in both:
        peer.wire.close()
    self.assertEqual(line, "process 1 (h1) failed: INTERNAL: link")


if __name__ == "__main__":
  absltest.main()
