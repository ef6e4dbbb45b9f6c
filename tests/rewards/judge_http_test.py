import email.utils
import json
import os
import threading
import time
from unittest import mock

from absl import logging
from absl.testing import absltest, parameterized

from r1jax.rewards import judge, judge_http
from tests import judge_server

OK = '{"analysis": "a", "correctness": "correct"}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
KEY = 'sk-a/b"c+secret'
PROMPTS = [judge.Prompt(f"prompt {i}", i) for i in range(40)]


def connect(url, **changes):
  arguments = dict(
    url=url,
    model="m",
    key_env="",
    temperature=0.5,
    max_reply_tokens=64,
    timeout_secs=5.0,
    max_attempts=3,
    max_in_flight=2,
    max_failures=100,
    backoff_secs=0.01,
    max_wait_secs=0.05,
    max_reply_bytes=1 << 16,
  )
  return judge_http.connect(**arguments | changes)


def of_length(body, length=None):
  length = len(body) if length is None else length
  return HEAD + f"Content-Length: {length}\r\n\r\n".encode() + body


def json_body(value):
  return lambda handler, _: judge_server.send(handler, 200, value)


def said(text):
  return json.dumps(judge_server.completion(text)).encode()


class JudgeHttpTest(parameterized.TestCase):
  def ask(self, handle, prompts=1, max_secs=2.0, **changes):
    """(replies, server), within the time."""
    with judge_server.Server(handle) as server:
      ask = connect(server.url, **changes)
      start = time.perf_counter()
      replies = ask(PROMPTS[:prompts])
      self.assertLess(time.perf_counter() - start, max_secs)
    self.assertLen(replies, prompts)
    return replies, server

  def test_what_is_sent_and_what_comes_back(self):
    with mock.patch.dict(os.environ, {"JUDGE_KEY": f" {KEY}\n"}):
      (reply,), server = self.ask(
        judge_server.says(str.upper), key_env="JUDGE_KEY"
      )
    self.assertEqual(reply, judge.Reply("PROMPT 0", 1, ""))
    ((headers, path, body),) = server.requests
    self.assertEqual(path, "/v1/chat/completions")
    self.assertEqual(headers["Authorization"], f"Bearer {KEY}")
    self.assertEqual(headers["Host"], server.url.split("/")[2])
    self.assertEqual(
      body,
      {
        "model": "m",
        "messages": [{"role": "user", "content": "prompt 0"}],
        "temperature": 0.5,
        "max_tokens": 64,
        "seed": 0,
        "stream": False,
      },
    )

  def test_order_is_kept_and_requests_in_flight_are_bounded(self):
    handled, counts = [], []

    def handle(handler, body):
      handled.append(body["seed"])
      counts.append(len(handled))
      time.sleep(0.02 * (body["seed"] % 3))
      handled.pop()  # Before the reply, which lets the client go on.
      judge_server.says(str.upper)(handler, body)

    replies, server = self.ask(handle, prompts=20, max_in_flight=3)
    self.assertEqual(
      [r.text for r in replies], [f"PROMPT {i}" for i in range(20)]
    )
    self.assertBetween(max(counts), 2, 3)
    for headers, _, _ in server.requests:
      self.assertNotIn("Authorization", headers)

  def test_no_prompts_no_requests(self):
    self.assertEqual(connect(judge_server.closed_port())([]), [])

  @parameterized.parameters(
    ("stop", ""), ("length", "cut off at max_reply_tokens"), (None, "")
  )
  def test_a_reply_cut_off(self, finish, reason):
    body = judge_server.completion(OK, finish)
    (reply,), _ = self.ask(json_body(body))
    self.assertEqual(reply, judge.Reply(OK, 1, reason))

  @parameterized.parameters(
    (b"<html>welcome</html>", "not JSON"),
    (b"", "not JSON"),
    (b'{"choices": [', "not JSON"),
    (b"\xff\xfe\x00", "not JSON"),
    (b"[" * 50_000, "not JSON"),
    (b'{"choices":' * 5_000, "not JSON"),
    (b"null", "no choices"),
    ([], "no choices"),
    ({}, "no choices"),
    ({"choices": []}, "no choices"),
    ({"choices": None}, "no choices"),
    ({"choices": {"0": 1}}, "no choices"),
    ({"choices": ["text"]}, "no choices"),
    ({"choices": [{"message": None}]}, "no choices"),
    ({"choices": [{"message": {}}]}, "no choices"),
    ({"choices": [{"text": OK}]}, "no choices"),
    ({"error": {"message": "no"}}, "no choices"),
    (judge_server.completion(None), "content is NoneType"),
    (judge_server.completion(float("nan")), "content is float"),
    (judge_server.completion({"correctness": "correct"}), "content is dict"),
    (judge_server.completion([OK]), "content is list"),
  )
  def test_lies_are_failures_at_once(self, body, reason):
    (reply,), server = self.ask(json_body(body))
    self.assertIsNone(reply.text)
    self.assertIn(reason, reply.reason)
    self.assertEqual(reply.attempts, 1)
    self.assertLen(server.requests, 1)

  @parameterized.parameters(408, 409, 429, 500, 502, 503, 599)
  def test_these_are_tried_again(self, code):
    fine = judge_server.says(lambda _: OK)
    no = judge_server.status(code)
    (reply,), server = self.ask(judge_server.in_turn(no, no, fine))
    self.assertEqual(reply, judge.Reply(OK, 3))
    (reply,), server = self.ask(no)
    self.assertEqual(reply, judge.Reply(None, 3, f"HTTP {code}: no"))
    self.assertLen(server.requests, 3)

  @parameterized.parameters(400, 401, 403, 404, 413, 422, 301, 307, 204, 201)
  def test_these_are_not(self, code):
    (reply,), server = self.ask(judge_server.status(code))
    self.assertIsNone(reply.text)
    self.assertStartsWith(reply.reason, f"HTTP {code}")
    self.assertLen(server.requests, 1)

  def test_no_redirect_is_followed(self):
    with judge_server.Server(judge_server.says(lambda _: OK)) as other:
      for code in (301, 302, 303, 307, 308):
        away = judge_server.status(code, Location=other.url)
        (reply,), _ = self.ask(away)
        self.assertIsNone(reply.text)
        self.assertIn("a redirect, which is not followed", reply.reason)
      self.assertEmpty(other.requests)

  def test_proxies_of_the_environment_are_not_used(self):
    with judge_server.Server(judge_server.says(lambda _: "proxy")) as proxy:
      names = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
      with mock.patch.dict(os.environ, dict.fromkeys(names, proxy.url)):
        (reply,), _ = self.ask(judge_server.says(lambda _: OK))
      self.assertEqual(reply.text, OK)
      self.assertEmpty(proxy.requests)

  @parameterized.named_parameters(
    ("before_headers", b""),
    ("inside_the_status", b"HTTP/1.1 2"),
    ("inside_headers", HEAD),
    ("before_body", of_length(b"", 10)),
    ("inside_body", of_length(said(OK)[:-5], len(said(OK)))),
    ("inside_a_chunk", HEAD + b"Transfer-Encoding: chunked\r\n\r\nff\r\n{}"),
    ("between_chunks", HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"),
    ("bad_chunk", HEAD + b"Transfer-Encoding: chunked\r\n\r\n-5\r\n{}\r\n"),
    ("more_chunk", HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffff\r\n{"),
    ("too_long", of_length(said(OK), 1 << 50)),
    ("no_http", b"SSH-2.0-OpenSSH_9.2\r\n"),
    ("binary", bytes(range(256)) * 4),
    ("many_headers", HEAD + b"X: y\r\n" * 200 + b"\r\n"),
    ("long_header", HEAD + b"X" * 70_000),
  )
  def test_a_broken_connection_is_tried_again(self, data):
    fine = judge_server.raw(of_length(said(OK)))
    broken = judge_server.raw(data)
    options = dict(max_reply_bytes=1 << 20)
    (reply,), _ = self.ask(judge_server.in_turn(broken, fine), **options)
    self.assertEqual(reply, judge.Reply(OK, 2))
    (reply,), server = self.ask(broken, **options)
    self.assertIsNone(reply.text)
    self.assertStartsWith(reply.reason, "connection: ")
    self.assertLen(server.requests, 3)

  @parameterized.named_parameters(
    ("with_a_length", of_length(said(OK))),
    ("by_the_end", HEAD + b"\r\n" + said(OK)),
    (
      "in_chunks",
      HEAD
      + b"Transfer-Encoding: chunked\r\n\r\n"
      + b"".join(b"1\r\n%c\r\n" % byte for byte in said(OK))
      + b"0\r\n\r\n",
    ),
    ("after_continue", b"HTTP/1.1 100 Continue\r\n\r\n" + of_length(said(OK))),
    ("and_more_behind", of_length(said(OK)) + b"garbage"),
  )
  def test_ways_to_send_a_whole_response(self, data):
    (reply,), _ = self.ask(judge_server.raw(data))
    self.assertEqual(reply, judge.Reply(OK, 1))

  @parameterized.named_parameters(
    ("stalls", judge_server.stall),
    ("drips_a_status", judge_server.drip(b"H")),
    ("drips_headers", judge_server.drip(HEAD)),
    ("drips_continue", judge_server.drip(b"HTTP/1.1 100 Go\r\n\r\n", 0.001)),
    (
      "drips_a_body",
      judge_server.in_turn(
        lambda handler, _: (
          handler.wfile.write(of_length(b"", 50_000)),
          judge_server.drip(b" ")(handler, _),
        )
      ),
    ),
  )
  def test_the_deadline_is_of_the_whole_response(self, handle):
    (reply,), server = self.ask(
      handle, timeout_secs=0.15, max_attempts=2, max_secs=1.0
    )
    self.assertEqual(reply, judge.Reply(None, 2, "no whole response in 0.15 s"))
    self.assertLen(server.requests, 2)

  @parameterized.named_parameters(
    ("body", HEAD + b"\r\n"),
    ("chunks", HEAD + b"Transfer-Encoding: chunked\r\n\r\nfffffff\r\n"),
    ("length", of_length(b"", 1 << 40)),
  )
  def test_a_flood_ends_at_max_reply_bytes(self, head):
    (reply,), _ = self.ask(judge_server.flood(head))
    want = "the response is larger than 65536 bytes"
    self.assertEqual(reply, judge.Reply(None, 1, want))

  def test_a_flood_of_headers_ends(self):
    line = b"X: " + b"y" * 4000 + b"\r\n"
    (reply,), _ = self.ask(judge_server.flood(HEAD, line))
    self.assertIn("larger than", reply.reason)

  def test_a_handshake_that_stalls_ends(self):
    release = threading.Event()
    listener = judge_server.socket.create_server(("127.0.0.1", 0))

    def serve():
      with listener.accept()[0] as sock:
        for byte in bytes([22, 3, 3, 0x3F, 0xFF, 2]) + bytes(1000):
          if release.wait(0.02):
            return
          try:
            sock.send(bytes([byte]))
          except OSError:
            return

    thread = threading.Thread(target=serve)
    thread.start()
    try:
      url = f"https://127.0.0.1:{listener.getsockname()[1]}"
      start = time.perf_counter()
      (reply,) = connect(url, timeout_secs=0.2, max_attempts=1)(PROMPTS[:1])
      self.assertLess(time.perf_counter() - start, 2.0)
      self.assertEqual(reply.reason, "no whole response in 0.2 s")
    finally:
      release.set()
      thread.join()
      listener.close()

  @parameterized.parameters("0.3", "-1", "soon", "1e9", "", "²", "9" * 30)
  def test_a_retry_after_that_is_none(self, value):
    no = judge_server.status(429, Retry_After=value.encode().decode("latin-1"))
    fine = judge_server.says(lambda _: OK)
    (reply,), _ = self.ask(judge_server.in_turn(no, fine), max_wait_secs=9.0)
    self.assertEqual(reply, judge.Reply(OK, 2))

  def test_retry_after_is_heeded_and_capped(self):
    fine = judge_server.says(lambda _: OK)
    date = email.utils.formatdate(time.time() + 500, usegmt=True)
    for value in ("1000", date):
      no = judge_server.status(429, Retry_After=value)
      start = time.perf_counter()
      (reply,), _ = self.ask(judge_server.in_turn(no, fine), max_wait_secs=0.3)
      self.assertGreater(time.perf_counter() - start, 0.3)
      self.assertEqual(reply, judge.Reply(OK, 2))

  def test_waits_double_and_are_a_function_of_the_seed(self):
    waits, really = [], threading.Event.wait

    def wait(event, secs=None):  # Threads wait for their start with None.
      if secs is None:
        return really(event)
      waits.append(secs)

    with mock.patch.object(threading.Event, "wait", wait):
      url = judge_server.closed_port()
      ask = connect(url, max_attempts=5, backoff_secs=1.0, max_wait_secs=6.0)
      for _ in range(2):
        ask(PROMPTS[:1])
      first = [secs for secs in waits if secs]
      ask(PROMPTS[1:2])
    half = len(first) // 2
    self.assertEqual(half, 4)
    self.assertEqual(first[:half], first[half:])
    self.assertNotEqual(first[0], [s for s in waits if s][-4])
    for n, secs in enumerate(first[:half]):
      self.assertBetween(secs, min(6.0, 0.5 * 2**n), min(6.0, 2**n))

  def test_a_judge_that_is_down_is_not_asked_for_long(self):
    no = judge_server.status(503)
    with self.assertLogs(logging.get_absl_logger(), "WARNING") as logs:
      replies, server = self.ask(
        no, prompts=40, max_failures=4, max_attempts=2, max_in_flight=2
      )
    # Two in flight may still be under way when the fourth fails.
    self.assertBetween(len(server.requests), 8, 12)
    self.assertTrue(all(r.text is None for r in replies))
    self.assertIn("HTTP 503", replies[0].reason)
    rest = judge.Reply(None, 0, "not asked, 4 prompts in a row had failed")
    self.assertEqual(set(replies[8:]), {rest})
    (line,) = logs.output
    self.assertIn("no reply to 40 of 40 prompts", line)
    self.assertIn("First: HTTP 503: no", line)

  def test_a_stop_ends_waits(self):
    no = judge_server.status(503, Retry_After="60")
    bad = judge_server.status(401)

    def handle(handler, body):
      (no if body["seed"] == 0 else bad)(handler, body)

    replies, _ = self.ask(handle, 10, max_failures=3, max_wait_secs=60.0)
    self.assertIn("HTTP 503", replies[0].reason)

  def test_failures_in_a_row_are_what_counts(self):
    def handle(handler, body):
      if body["seed"] % 3:
        judge_server.status(500)(handler, body)
      else:
        judge_server.says(lambda _: OK)(handler, body)

    replies, _ = self.ask(
      handle, 30, max_failures=3, max_attempts=1, max_in_flight=1
    )
    self.assertEqual(sum(r.text == OK for r in replies), 10)
    self.assertEqual({r.attempts for r in replies}, {1})

  @parameterized.parameters(400, 413, 422)
  def test_what_is_about_one_prompt_stops_nothing(self, code):
    replies, server = self.ask(judge_server.status(code), 12, max_failures=3)
    self.assertLen(server.requests, 12)
    self.assertEqual({r.reason for r in replies}, {f"HTTP {code}: no"})

  def test_the_next_batch_is_asked_again(self):
    no, fine = judge_server.status(401), judge_server.says(lambda _: OK)
    handle = judge_server.in_turn(no, no, fine)
    with judge_server.Server(handle) as server:
      ask = connect(server.url, max_failures=2, max_in_flight=1)
      self.assertEqual([r.text for r in ask(PROMPTS[:4])], [None] * 4)
      self.assertEqual([r.text for r in ask(PROMPTS[:4])], [OK] * 4)

  def test_nobody_listens(self):
    ask = connect(judge_server.closed_port(), max_attempts=2)
    (reply,) = ask(PROMPTS[:1])
    self.assertEqual((reply.text, reply.attempts), (None, 2))
    self.assertIn("ConnectionRefusedError", reply.reason)

  def test_the_key_is_nowhere(self):
    bearer = f"Bearer {KEY}"
    echoes = [
      judge_server.echo_headers,
      judge_server.says(lambda _: json.dumps({"key": bearer})),
      judge_server.status(401, f"bad key {bearer} " + "x" * 500),
      # Where a cut at 300 characters would leave a part of it.
      judge_server.status(401, "x" * 285 + bearer),
      judge_server.status(500, bearer.replace("/", "\\/")),
      judge_server.status(500, bearer.replace("/", "%2F")),
      judge_server.raw(f"HTTP/1.1 {bearer}\r\n\r\n".encode()),
      judge_server.raw(f"{bearer}\r\n\r\n".encode()),
      judge_server.raw(HEAD + f"{bearer}".encode()),
    ]
    for handle in echoes:
      with (
        mock.patch.dict(os.environ, {"JUDGE_KEY": KEY}),
        self.assertLogs(logging.get_absl_logger(), "DEBUG") as logs,
      ):
        logging.debug("one line at least")
        (reply,), server = self.ask(handle, key_env="JUDGE_KEY", max_attempts=1)
        ask = connect(server.url, key_env="JUDGE_KEY")
      seen = f"{reply} {logs.output} {ask!r} {vars(ask)}"
      self.assertNotIn("secret", seen)
      self.assertNotIn("sk-a", seen)

  @parameterized.parameters(
    (dict(url="127.0.0.1:8000"), "judge.url is '127.0.0.1:8000'"),
    (dict(url="ftp://host/v1"), "judge.url is 'ftp"),
    (dict(url="http://"), "judge.url is 'http://'"),
    (dict(url="http://host:99999"), "judge.url is"),
    (dict(url="http://host:x"), "judge.url is"),
    (dict(url="http://a..b/v1"), "judge.url is"),
    (dict(url="http://[::1/v1"), "judge.url is"),
    (dict(url="http://host/a b"), "judge.url is"),
    (dict(url="http://host/\r\nX: y"), "judge.url is"),
    (dict(url=None), "judge.url is None"),
    (dict(url=7), "judge.url is 7"),
    (dict(url="http://host/v1?key=secret"), "judge.url has a user, query"),
    (dict(url="http://me:secret@host/v1"), "judge.url has a user, query"),
    (dict(model=""), "judge.model is ''"),
    (dict(model=None), "judge.model is None"),
    (dict(temperature=-1.0), "judge.temperature is -1.0. It must be a number"),
    (dict(temperature=float("nan")), "judge.temperature is nan"),
    (dict(temperature="0"), "judge.temperature is '0'"),
    (dict(timeout_secs=0), "judge.timeout_secs is 0"),
    (dict(timeout_secs=float("inf")), "judge.timeout_secs is inf"),
    (dict(max_attempts=0), "judge.max_attempts is 0"),
    (dict(max_attempts=1.5), "judge.max_attempts is 1.5. .* whole"),
    (dict(max_in_flight=True), "judge.max_in_flight is True"),
    (dict(max_failures=0), "judge.max_failures is 0"),
    (dict(max_reply_tokens=0), "judge.max_reply_tokens is 0"),
    (dict(max_reply_bytes=0), "judge.max_reply_bytes is 0"),
    (dict(backoff_secs=-1), "judge.backoff_secs is -1"),
    (dict(max_wait_secs=None), "judge.max_wait_secs is None"),
    (dict(key_env="NOT_SET"), "judge.key_env is 'NOT_SET', but"),
    (dict(key_env="SHORT"), "judge.key_env is 'SHORT', but .* 8 or more"),
    (dict(key_env="BROKEN"), "judge.key_env is 'BROKEN', but .* visible"),
    (dict(key_env="EMPTY"), "judge.key_env is 'EMPTY', but .* not set"),
    (dict(key_env="sk-secret"), "judge.key_env is not the name"),
    (dict(key_env="secret_as_a_name"), "judge.key_env is not the name"),
    (dict(key_env=None), "judge.key_env is not the name"),
  )
  def test_arguments_are_refused_by_name(self, change, message):
    keys = {
      "SHORT": "secret",
      "BROKEN": "sk-secret\r\nX: y",
      "EMPTY": " ",
    }
    with (
      mock.patch.dict(os.environ, keys),
      self.assertRaisesRegex(ValueError, message) as caught,
    ):
      connect(**{"url": "http://127.0.0.1/v1"} | change)
    self.assertNotIn("secret", str(caught.exception))

  def test_trailing_slashes_of_the_url(self):
    with judge_server.Server(judge_server.says(lambda _: OK)) as server:
      for url in (server.url, server.url + "/", server.url[:-3]):
        (reply,) = connect(url)(PROMPTS[:1])
        self.assertEqual(reply.text, OK)
      paths = [path for _, path, _ in server.requests]
    self.assertEqual(
      paths, ["/v1/chat/completions"] * 2 + ["/chat/completions"]
    )


if __name__ == "__main__":
  absltest.main()
