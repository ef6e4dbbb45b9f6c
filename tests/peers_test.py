import socket
import threading
import time
from unittest import mock

from absl.testing import absltest, parameterized

from r1jax import peers


class FactsTest(parameterized.TestCase):
  def test_config_is_flat_and_code_is_all_of_it(self):
    facts = peers.facts({"a": {"b": 1, "c": {}}, "d": [1, "x"]})
    self.assertEqual(
      facts["config"],
      {"config.a.b": "1", "config.a.c": "{}", "config.d": '[1, "x"]'},
    )
    for name in ("r1jax/peers.py", "r1jax/models/moe.py", "configs/zero.py"):
      self.assertLen(facts["code"][name], 16)
    self.assertNotIn("tests/peers_test.py", facts["code"])
    self.assertEqual(facts["packages"]["tokamax"], "none")
    self.assertNotEqual(facts["packages"]["jax"], "none")
    self.assertEqual(peers.difference(facts, facts), "")

  def test_the_first_three_differences_are_shown(self):
    kinds = {"code": {}, "packages": {}}
    ours = {"config": {f"f{i}": "1" for i in range(5)}, **kinds}
    theirs = {"config": {f"f{i}": "2" for i in range(5)}, **kinds}
    self.assertEqual(
      peers.difference(ours, theirs),
      "f0 is 2 there and 1 in process 0; f1 is 2 there and 1 in process 0; "
      "f2 is 2 there and 1 in process 0 and 2 more",
    )


class AddressTest(parameterized.TestCase):
  @parameterized.parameters(
    ("h:1", ("h", 1)),
    ("10.0.0.2:8476", ("10.0.0.2", 8476)),
    ("[fe80::1]:8476", ("fe80::1", 8476)),
  )
  def test_good(self, text, wanted):
    self.assertEqual(peers.address(text), wanted)

  @parameterized.parameters("h", ":1", "h:", "h:x", "h:0", "h:65536", "h:-1")
  def test_bad(self, text):
    with self.assertRaisesRegex(ValueError, "but must be HOST:PORT"):
      peers.address(text)


class WireTest(parameterized.TestCase):
  def test_messages_in_pieces(self):
    left, right = socket.socketpair()
    wire = peers.Wire(left)
    right.sendall(b'{"a": 1}\n{"b"')
    self.assertEqual(wire.receive(), [{"a": 1}])
    right.sendall(b": 2}")
    self.assertEqual(wire.receive(), [])
    right.sendall(b'\n{"c": 3}\n')
    self.assertEqual(wire.receive(), [{"b": 2}, {"c": 3}])
    right.close()
    self.assertIsNone(wire.receive())
    wire.close()
    self.assertFalse(wire.send({}))


class JoinTest(parameterized.TestCase):
  """What keeps a process from joining a run."""

  def join(self, port, timeout_secs=0.3):
    member = peers.Member(f"localhost:{port}", 2, 1, None, timeout_secs)
    return peers.join(member, {})

  def test_no_coordinator(self):
    with socket.create_server(("localhost", 0)) as taken:
      port = taken.getsockname()[1]
    with self.assertRaisesRegex(
      ValueError,
      f"^process 1 of 2 cannot reach the coordinator at localhost:{port} in "
      r"0.3 s \(.*refused\). Start process 0 there, open the port, or mend",
    ):
      self.join(port)

  def test_no_such_host(self):
    member = peers.Member("no-such-host.invalid:1", 2, 1, None, 0.1)
    with self.assertRaisesRegex(ValueError, r"no-such-host.invalid:1 in 0.1 s"):
      peers.join(member, {})

  def test_the_port_is_taken(self):
    with socket.create_server(("", 0)) as taken:
      port = taken.getsockname()[1]
      member = peers.Member(f"localhost:{port}", 2, 0)
      with self.assertRaisesRegex(ValueError, f"port {port} cannot be had"):
        peers.join(member, {})

  @parameterized.parameters(
    (b"HTTP/1.1 400 Bad Request\r\n", "is no coordinator of r1jax"),
    (b"", "hung up before the run began"),
    (b'{"stop": "because"}\n', "^because$"),
  )
  def test_answers(self, data, message):
    with socket.create_server(("localhost", 0)) as server:

      def answer():
        sock, _ = server.accept()
        with sock:
          sock.recv(1 << 16)
          sock.sendall(data)

      threading.Thread(target=answer).start()
      with self.assertRaisesRegex(ValueError, message):
        self.join(server.getsockname()[1])


class Ended(Exception):
  """In the place of the end of the process."""


class WatchTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    ours, self.theirs = socket.socketpair()
    self.there = peers.Wire(self.theirs)
    self.lines = []
    self.ended = threading.Event()

    def end(watch, line):
      self.lines.append(line)
      self.ended.set()
      raise Ended

    self.enter_context(mock.patch.object(peers.Watch, "_end", end))
    self.enter_context(mock.patch.object(peers, "BEAT_SECS", 0.05))
    self.enter_context(mock.patch.object(peers, "_CAUSE_SECS", 0.1))
    self.enter_context(mock.patch.object(threading, "excepthook"))
    member = peers.Member("h:1", 2, 1, None, 0.4)
    self.watch = peers.Watch(peers.Wire(ours), member, [])
    self.addCleanup(self.stop)

  def stop(self):
    self.watch._done = True
    self.theirs.close()
    time.sleep(0.1)  # For its threads to see it.

  def sent(self, kind):
    while True:
      for message in self.there.receive() or [{kind: None}]:
        if kind in message:
          return message

  def test_says_its_round_and_is_ended_by_a_line(self):
    self.watch.note(4)
    self.assertEqual(self.sent("round"), {"round": 4})
    self.assertEqual(self.sent("round"), {"round": 4})  # It beats.
    self.there.send({"alive": True})
    self.assertFalse(self.ended.wait(0.1))
    self.there.send({"stop": "process 0 (h0) ended"})
    self.assertTrue(self.ended.wait(5))
    self.assertEqual(self.lines, ["process 0 (h0) ended"])

  @parameterized.parameters(True, False)
  def test_the_coordinator_is_gone(self, closes):
    self.watch.note(4)
    if closes:
      self.theirs.close()
    self.assertTrue(self.ended.wait(5))
    self.assertEqual(
      self.lines[0],
      "the coordinator beside process 0 at h:1 is gone; the last round it "
      "finished is 4. Run the same command again, which resumes.",
    )

  @parameterized.parameters(True, False)
  def test_tells_why_it_fails(self, by_another):
    with self.assertRaises(Ended):
      self.watch.fail("no room", by_another=by_another)
    wanted = {"failed": "no room", "by_another": by_another}
    self.assertEqual(self.sent("failed"), wanted)
    self.assertEqual(self.lines, ["no room"])

  def test_an_end_is_no_death(self):
    self.watch.finish()
    self.assertEqual(self.sent("done"), {"done": True})
    self.theirs.close()
    self.assertFalse(self.ended.wait(0.2))


if __name__ == "__main__":
  absltest.main()
