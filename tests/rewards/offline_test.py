import json
import math

from absl.testing import absltest, parameterized

from r1jax.records import Response, Reward
from r1jax.rewards import offline

QUESTION = {"id": "a", "question": "2+2?", "answer": "4", "verifier": "exact"}
RECORD = {"question": QUESTION, "response": "4"}
CASE = {"id": "c", "kind": "math", "input": "\\boxed{4}", "gold": "4"}
REWARDS = ("accuracy", "format", "language")


def read(*rows, rewards=REWARDS):
  return offline.items([json.dumps(row).encode() for row in rows], rewards)


def item(row, rewards=REWARDS) -> offline.Item:
  items, problems = read(row, rewards=rewards)
  assert not problems, problems
  (only,) = items
  return only


class ItemsTest(parameterized.TestCase):
  def test_record_nested_and_flat_are_one(self):
    nested, flat = item(RECORD), item({**QUESTION, "response": {"text": "4"}})
    self.assertEqual(nested, flat)
    self.assertEqual(nested.question.answer, "4")
    self.assertEqual(nested.question.language, "en")
    self.assertEqual(nested.response[:4], ("4", 0, "eos", False))
    self.assertEqual(nested.rewards, REWARDS)
    self.assertEqual(nested.limit_secs, math.inf)

  def test_response_in_full(self):
    response = {
      "text": "x",
      "tokens": 7,
      "finish_reason": "length",
      "think_prefilled": True,
    }
    got = item(RECORD | {"response": response}).response
    self.assertEqual(got, Response(**response))

  @parameterized.parameters(
    ("math", "4", "accuracy", "math", "en", "x"),
    ("math", {"task": "countdown"}, "accuracy", "countdown", "en", "x"),
    ("code", {"type": "stdin"}, "accuracy", "code", "en", "x"),
    ("format", None, "format", "none", "en", "x"),
    ("language", "zh", "language", "none", "zh", "<think>x</think>"),
  )
  def test_case(self, kind, gold, reward, verifier, language, text):
    got = item({"id": "c", "kind": kind, "input": "x", "gold": gold})
    self.assertEqual(got.rewards, (reward,))
    self.assertEqual(got.question.verifier, verifier)
    self.assertEqual(got.question.language, language)
    self.assertEqual(got.response.text, text)
    self.assertFalse(got.response.think_prefilled)

  def test_case_of_a_prefilled_thought(self):
    gold = {"think_prefilled": True}
    got = item({"id": "c", "kind": "format", "input": "x", "gold": gold})
    self.assertTrue(got.response.think_prefilled)

  def test_case_of_another_reward_is_left_out(self):
    self.assertEqual(read(CASE, rewards=("format",)), ([], []))

  def test_parts(self):
    parts = {"parts": [["ab", 3], ["-", 0], ["c", 1]]}
    self.assertEqual(item(CASE | {"input": parts}).response.text, "abababc")

  def test_expectations_are_those_of_its_rewards(self):
    expect = {"accuracy": True, "format": 0.5}
    self.assertEqual(item(RECORD | {"expect": expect}).expect, expect)
    got = item(RECORD | {"expect": expect}, rewards=("format",))
    self.assertEqual(got.expect, {"format": 0.5})
    got = item(RECORD | {"expect": False}, rewards=("format", "accuracy"))
    self.assertEqual(got.expect, {"format": False})
    self.assertEqual(item(RECORD | {"expect": None}).expect, {})

  def test_conditions(self):
    got = item(CASE | {"limit_s": 9, "also": ["within:3", "canary", "env:A=b"]})
    self.assertEqual(got.limit_secs, 3.0)
    self.assertEqual(got.skipped, ("canary", "env:A=b"))
    got = item(CASE | {"limit_s": 2, "also": ["within:3"]})
    self.assertEqual(got.limit_secs, 2.0)
    self.assertTrue(got.is_gradable)
    got = item(CASE | {"input": "open('@CANARY@')"})
    self.assertEqual(got.skipped, ("@CANARY@",))
    self.assertFalse(got.is_gradable)

  def test_numbers_of_lines_count_blank_ones(self):
    line = json.dumps(CASE).encode()
    items, _ = offline.items([b"\n", line, b"  \n", line], REWARDS)
    self.assertEqual([each.line for each in items], [2, 4])

  @parameterized.parameters(
    (b"{", "is not JSON"),
    (b"[1]", "is not an object"),
    (b'"\xff"', "byte 2 is not UTF-8"),
    (b"[" * 100_000, "is not JSON"),
    (CASE | {"kind": "maths"}, "kind is 'maths'. Known: .*mean math"),
    (CASE | {"kind": 3}, "kind is 3"),
    (CASE | {"input": 3}, "input is 3"),
    (CASE | {"input": {"parts": [["a", -1]]}}, "input is"),
    (CASE | {"input": {"parts": [["a", 10**12]]}}, "has 1000000000000 char"),
    (CASE | {"expct": True}, "field is 'expct'.*mean expect"),
    (CASE | {"expect": "yes"}, "expect is 'yes'"),
    (CASE | {"expect": [1, 0]}, r"expect is \[1, 0\]"),
    (CASE | {"expect": {"fromat": True}}, "is 'fromat'. Known: .*mean format"),
    (CASE | {"limit_s": 0}, "limit_s is 0"),
    (CASE | {"also": ["quick"]}, "also has 'quick'. Known: within"),
    (CASE | {"also": "canary"}, "also is 'canary'"),
    (CASE | {"id": None}, "id is None"),
    ({"id": "c", "kind": "math"}, "input is missing"),
    (CASE | {"kind": "format", "gold": "x"}, "gold is 'x'"),
    ({"question": QUESTION}, "response is missing"),
    (RECORD | {"response": 3}, "response is 3"),
    (RECORD | {"response": {"text": 3}}, "response.text is 3"),
    (RECORD | {"response": {"txt": "a"}}, "response.field is 'txt'"),
    (
      RECORD | {"response": {"text": "a", "finish_reason": "stop"}},
      "finish_reason is 'stop'. Known: eos",
    ),
    (
      RECORD | {"response": {"text": "a", "tokens": "9"}},
      "response.tokens is '9'",
    ),
    (
      RECORD | {"response": {"text": "a", "think_prefilled": 1}},
      "think_prefilled is 1",
    ),
    ({"question": QUESTION | {"gold": 1}, "response": ""}, "field is 'gold'"),
    ({"question": {"id": "a"}, "response": ""}, "question.question is missing"),
    ({**QUESTION, "verifier": "exct", "response": ""}, "verifier is 'exct'"),
    ({**QUESTION, "answer": " ", "response": ""}, "answer is ' '"),
    ({**QUESTION, "meta": 3, "response": ""}, "meta is 3"),
  )
  def test_what_is_refused(self, row, message):
    line = row if isinstance(row, bytes) else json.dumps(row).encode()
    items, problems = offline.items([b"\n", line], REWARDS)
    self.assertEqual(items, [])
    self.assertLen(problems, 1)
    self.assertRegex(problems[0], f"^line 2: .*{message}")
    self.assertLess(len(problems[0]), 600)

  @parameterized.parameters(("overlong", "tokens"), ("repetition", "ids"))
  def test_what_a_reward_reads_must_be_there(self, reward, field):
    for response in ("a", {"text": "a"}):
      _, problems = read(RECORD | {"response": response}, rewards=(reward,))
      self.assertRegex(problems[0], f"response.{field} is missing")

  def test_ids_tell_the_tokens(self):
    response = {"text": "a b", "ids": [4, 5, 6]}
    got = item(RECORD | {"response": response}, rewards=("repetition",))
    self.assertEqual(got.response.tokens, 3)

  def test_gold_matters_to_accuracy_alone(self):
    row = {**QUESTION, "answer": " ", "response": "x"}
    self.assertLen(read(row, rewards=("format",))[0], 1)


class DisagreementTest(parameterized.TestCase):
  def differs(self, expect, value, status="ok", secs=0.0, **more):
    got = item(CASE | {"expect": expect} | more)
    reward = Reward(value, "so", status)
    return offline.disagreement(got, "accuracy", reward, secs)

  @parameterized.parameters(
    (True, 1.0),
    (False, 0.0),
    (0.5, 0.5000009),
    (1, 1.0),
    ([0.2, 0.4], 0.2),
    ([0.2, 0.4], 0.4),
    ({"accuracy": False}, 0.0),
  )
  def test_agrees(self, expect, value):
    self.assertIsNone(self.differs(expect, value))

  @parameterized.parameters(
    (True, 0.9999999),
    (False, 1e-9),
    (0.5, 0.500002),
    (0.5, 0.499998),
    ([0.2, 0.4], 0.1999),
    ([0.2, 0.4], 0.4001),
  )
  def test_disagrees(self, expect, value):
    self.assertStartsWith(self.differs(expect, value), "expected")

  def test_failure_agrees_with_nothing(self):
    self.assertRegex(self.differs(False, 0.0, "failed"), "false, graded")
    self.assertRegex(self.differs(False, 0.0, "timeout"), "false, graded")
    self.assertRegex(self.differs(False, 0.0, "failed", limit_s=5), "graded")

  def test_timeout_is_0_where_there_is_a_limit(self):
    self.assertIsNone(self.differs(False, 0.0, "timeout", 4.0, limit_s=5))
    self.assertRegex(self.differs(True, 0.0, "timeout", limit_s=5), "true")

  def test_late(self):
    self.assertEqual(
      self.differs(True, 1.0, secs=3.5, also=["within:3"]), "took 3.50 s of 3"
    )
    self.assertIsNone(self.differs(True, 1.0, secs=3.5))


if __name__ == "__main__":
  absltest.main()
