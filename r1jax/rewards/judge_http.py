"""A judge behind an OpenAI-compatible HTTP endpoint.

A prompt that gets no reply is "failed", with a reason, and never an exception;
the API key is in neither.
"""

import concurrent.futures
import email.utils
import json
import math
import os
import re
import threading
import time
import urllib.parse
from collections.abc import Sequence
from typing import Any, NamedTuple

from absl import logging

from r1jax.rewards import judge, judge_text, judge_wire

_AGAIN = (408, 409, 429)  # And 5xx.
_ABOUT_PROMPT = (400, 413, 422)  # Says nothing of the next prompt.
_MIN_KEY_CHARS = 8
_REDACTED = "[key]"
_NO_JSON = object()


class _Endpoint(NamedTuple):
  """The arguments of `connect` but for the key, which prints nowhere."""

  url: urllib.parse.SplitResult
  model: str
  temperature: float
  max_reply_tokens: int
  timeout_secs: float
  max_attempts: int
  max_in_flight: int
  max_failures: int
  backoff_secs: float
  max_wait_secs: float
  max_reply_bytes: int


class _Failure(NamedTuple):
  """An attempt that gave no reply.

  Attributes:
    reason: One line.
    again: Whether another attempt may help.
    wait_secs: What the server asked for.
    is_about_prompt: Whether other prompts may fare better.
  """

  reason: str
  again: bool = False
  wait_secs: float = 0.0
  is_about_prompt: bool = False


def connect(
  *,
  url: str,
  model: str,
  key_env: str,
  temperature: float,
  max_reply_tokens: int,
  timeout_secs: float = 120.0,
  max_attempts: int = 4,
  max_in_flight: int = 8,
  max_failures: int = 8,
  backoff_secs: float = 1.0,
  max_wait_secs: float = 30.0,
  max_reply_bytes: int = 1 << 20,
) -> judge.Ask:
  """Asks `POST {url}/chat/completions`; a reply a prompt, in order.

  A prompt costs at most max_attempts * (timeout_secs + max_wait_secs), and
  what the resolver takes for the host's name. Attempt n is followed by
  another after a connection error, 408, 409, 429 or 5xx, when

    backoff_secs * 2**(n - 1) * u,  u in [0.5, 1), of the prompt's seed and n

  have passed, or what Retry-After says if that is longer, and at most
  max_wait_secs. Once max_failures prompts in a row have failed, the rest of
  the batch is not asked; the next batch tries again.

  Args:
    url: http or https, without user, query or fragment, as
      "http://127.0.0.1:8000/v1".
    model: The server's name of it.
    key_env: Environment variable with the API key, read here and sent as
      bearer token; "" sends none. The key is cut out of all that comes back.
    temperature: Of the judge.
    max_reply_tokens: Asked of the server as max_tokens; a reply cut off there
      is unparseable.
    timeout_secs: From connecting to the last byte, however they trickle in.
    max_attempts: Requests a prompt.
    max_in_flight: Requests at a time.
    max_failures: Prompts in a row without a reply, after all their attempts.
    backoff_secs, max_wait_secs: See above.
    max_reply_bytes: Of a response, its headers counted.

  Raises:
    ValueError: For an argument that cannot be used, by name.
  """
  given = dict(locals())
  key = _key(given.pop("key_env"))
  endpoint = _Endpoint(**given | {"url": _checked_url(url)})
  _check(endpoint)

  def ask(prompts: Sequence[judge.Prompt]) -> list[judge.Reply]:
    return _ask(endpoint, key, prompts)

  return ask


class _Breaker:
  """Owns the count of failures in a row, and the word to stop."""

  def __init__(self, max_failures: int):
    self._lock = threading.Lock()
    self._failures, self._max_failures = 0, max_failures
    self.stopped = threading.Event()

  def note(self, failed: bool) -> None:
    with self._lock:
      self._failures = self._failures + 1 if failed else 0
      if self._failures >= self._max_failures:
        self.stopped.set()


def _ask(
  endpoint: _Endpoint, key: str, prompts: Sequence[judge.Prompt]
) -> list[judge.Reply]:
  breaker = _Breaker(endpoint.max_failures)
  pool = concurrent.futures.ThreadPoolExecutor(
    endpoint.max_in_flight, thread_name_prefix="judge"
  )
  try:
    replies = list(
      pool.map(lambda each: _reply(endpoint, key, breaker, each), prompts)
    )
  finally:  # After Ctrl-C no attempt is begun.
    breaker.stopped.set()
    pool.shutdown(cancel_futures=True)
  failed = [reply for reply in replies if reply.text is None]
  if failed:
    logging.warning(
      "The judge at %s gave no reply to %d of %d prompts, %d of them not "
      "asked. First: %s",
      endpoint.url.geturl(),
      len(failed),
      len(prompts),
      sum(not reply.attempts for reply in failed),
      failed[0].reason,
    )
  return replies


def _reply(
  endpoint: _Endpoint, key: str, breaker: _Breaker, prompt: judge.Prompt
) -> judge.Reply:
  failure = _Failure(
    f"not asked, {endpoint.max_failures} prompts in a row had failed"
  )
  attempt = 0
  while attempt < endpoint.max_attempts and not breaker.stopped.is_set():
    attempt += 1
    got = _attempt(endpoint, key, prompt)
    if isinstance(got, judge.Reply):
      breaker.note(failed=False)
      text = _redacted(got.text, key)
      return got._replace(text=text, attempts=attempt)
    failure = got._replace(reason=_one_line(_redacted(got.reason, key)))
    if not failure.again:
      break
    if attempt < endpoint.max_attempts:
      breaker.stopped.wait(_wait_secs(endpoint, prompt, attempt, failure))
  if attempt and not failure.is_about_prompt:
    breaker.note(failed=True)
  return judge.Reply(None, attempt, failure.reason)


def _wait_secs(
  endpoint: _Endpoint, prompt: judge.Prompt, attempt: int, failure: _Failure
) -> float:
  part = judge_text.drawn(32, "wait", prompt.seed, attempt) / (1 << 33)
  own = endpoint.backoff_secs * 2.0 ** min(attempt - 1, 60) * (0.5 + part)
  return min(endpoint.max_wait_secs, max(own, failure.wait_secs))


def _attempt(
  endpoint: _Endpoint, key: str, prompt: judge.Prompt
) -> judge.Reply | _Failure:
  try:
    response = _post(endpoint, key, prompt)
  except TimeoutError:
    secs = endpoint.timeout_secs
    return _Failure(f"no whole response in {secs:g} s", again=True)
  except judge_wire.TooLarge:
    most = endpoint.max_reply_bytes
    return _Failure(f"the response is larger than {most} bytes")
  except judge_wire.BROKEN as error:
    return _Failure(f"connection: {type(error).__name__}: {error}", again=True)
  status = response.status
  if status == 200:
    return _read_completion(response.body)
  reason = f"HTTP {status}"
  if 300 <= status < 400:
    reason += ", a redirect, which is not followed"
  elif message := _error_message(response.body):
    reason += f": {message}"
  return _Failure(
    reason,
    again=status in _AGAIN or status >= 500,
    wait_secs=_retry_after(response.retry_after),
    is_about_prompt=status in _ABOUT_PROMPT,
  )


def _read_completion(body: bytes) -> judge.Reply | _Failure:
  parsed = _json(body)
  if parsed is _NO_JSON:
    return _Failure("HTTP 200, but the body is not JSON")
  try:
    choice = parsed["choices"][0]
    text, finish = choice["message"]["content"], choice.get("finish_reason")
  except (LookupError, TypeError, AttributeError):
    return _Failure("HTTP 200, but no choices[0].message.content")
  if not isinstance(text, str):
    kind = type(text).__name__
    return _Failure(f"HTTP 200, but the content is {kind}, not text")
  cut = "cut off at max_reply_tokens" if finish == "length" else ""
  return judge.Reply(text, reason=cut)


def _error_message(body: bytes) -> str:
  """The text of an error as the API words it, or nothing."""
  try:
    message = _json(body)["error"]["message"]
  except (LookupError, TypeError):
    return ""
  return message if isinstance(message, str) else ""


def _json(body: bytes) -> Any:
  try:
    return json.loads(body)
  except (ValueError, RecursionError):
    return _NO_JSON


def _retry_after(value: str) -> float:
  """Seconds of a number or a date; 0 for anything else."""
  if re.fullmatch(r"[0-9]{1,9}", value.strip(), re.ASCII):
    return float(value)
  try:
    date = email.utils.parsedate_to_datetime(value)
    return max(0.0, date.timestamp() - time.time())
  except (ValueError, TypeError, OverflowError):
    return 0.0


def _post(
  endpoint: _Endpoint, key: str, prompt: judge.Prompt
) -> judge_wire.Response:
  payload = {
    "model": endpoint.model,
    "messages": [{"role": "user", "content": prompt.text}],
    "temperature": endpoint.temperature,
    "max_tokens": endpoint.max_reply_tokens,
    "seed": prompt.seed,
    "stream": False,
  }
  return judge_wire.post(
    endpoint.url,
    {"Authorization": f"Bearer {key}"} if key else {},
    json.dumps(payload).encode(),
    timeout_secs=endpoint.timeout_secs,
    max_bytes=endpoint.max_reply_bytes,
  )


def _redacted(text: str, key: str) -> str:
  """The text without the key, however JSON or a URL may escape it."""
  if not key:
    return text
  forms = (
    (re.escape(c), re.escape("\\" + c), f"%{ord(c):02x}", f"\\\\u{ord(c):04x}")
    for c in key
  )
  pattern = "".join(f"(?:{'|'.join(each)})" for each in forms)
  return re.sub(pattern, _REDACTED, text, flags=re.IGNORECASE)


def _one_line(text: str) -> str:
  return " ".join(text.split())[:300]


def _key(key_env: Any) -> str:
  if key_env == "":
    return ""
  # Who writes the key itself here must not find it in a log.
  if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", str(key_env)):
    raise ValueError(
      "judge.key_env is not the name of an environment variable in capitals. "
      "Put the key into one and give its name, or give '' to send no key."
    )
  key = os.environ.get(key_env, "").strip()
  if not key:
    raise ValueError(
      f"judge.key_env is {key_env!r}, but that environment variable is not "
      "set. Set it to the API key, or give '' to send no key."
    )
  if len(key) < _MIN_KEY_CHARS or not re.fullmatch(r"[!-~]+", key):
    raise ValueError(
      f"judge.key_env is {key_env!r}, but what that environment variable "
      f"holds is no key: it needs {_MIN_KEY_CHARS} or more visible ASCII "
      "characters. For a server that checks none, give ''."
    )
  return key


def _checked_url(url: Any) -> urllib.parse.SplitResult:
  wanted = (
    "It must be http or https with a host, and have no user, query or "
    'fragment, as "http://127.0.0.1:8000/v1".'
  )
  if not isinstance(url, str):
    raise ValueError(f"judge.url is {url!r:.200}. {wanted}")
  try:
    parts = urllib.parse.urlsplit(url)
    host, _ = parts.hostname, parts.port
    ok = parts.scheme in ("http", "https") and bool(host)
    if ok:
      host.encode("idna")
  except (ValueError, TypeError, AttributeError):
    raise ValueError(f"judge.url is {url!r:.200}. {wanted}") from None
  if "@" in parts.netloc or parts.query or parts.fragment:
    raise ValueError(f"judge.url has a user, query or fragment. {wanted}")
  if not ok or not re.fullmatch(r"[!-~]+", url):
    raise ValueError(f"judge.url is {url!r:.200}. {wanted}")
  path = parts.path.rstrip("/") + "/chat/completions"
  return parts._replace(path=path)


def _check(endpoint: _Endpoint) -> None:
  if not isinstance(endpoint.model, str) or not endpoint.model.strip():
    raise ValueError(
      f"judge.model is {endpoint.model!r:.200}. Give the server's name of it."
    )
  whole = ("max_reply_tokens", "max_attempts", "max_in_flight")
  whole += ("max_failures", "max_reply_bytes")
  least = dict.fromkeys(whole, 1)
  least |= dict(temperature=0, backoff_secs=0, max_wait_secs=0)
  for name, value in endpoint._asdict().items():
    if name in ("url", "model"):
      continue
    ok = isinstance(value, int) and not isinstance(value, bool)
    if name not in whole:
      ok = (ok or isinstance(value, float)) and math.isfinite(value)
    low = least.get(name, 0.001)
    if not ok or value < low:
      kind = "a whole number" if name in whole else "a number"
      raise ValueError(
        f"judge.{name} is {value!r:.80}. It must be {kind} of {low} or more."
      )
