import json
import pathlib
import time
import unittest

from absl.testing import absltest, parameterized

from r1jax.records import Question, Response
from r1jax.rewards.format import format_error, format_reward

CASES = pathlib.Path(__file__).parents[3] / "shared/cases/rewards-public.jsonl"
QUESTION = Question("q", "?", None, "none")
GOOD = "<think>a</think><answer>b</answer>"


class FormatErrorTest(parameterized.TestCase):
  @parameterized.parameters(
    GOOD,
    "\n<think>\na\n</think>\n\n<answer>\nb\n</answer>\n",
    "<think>1</2 <x> <b></think> <answer><i>b</answer>",
    "<think>a</think>\u200b<answer>b</answer>\ufeff",
    "<think>不</think><answer>🎉</answer>",
  )
  def test_good(self, text):
    self.assertIsNone(format_error(text))

  @parameterized.named_parameters(
    ("empty", "", "<think> is there 0 times"),
    ("no answer", "<think>a</think>", "<answer> is there 0 times"),
    ("not closed", "<think>a<answer>b</answer>", "</think> is there 0"),
    ("answer not closed", "<think>a</think><answer>b", "</answer> is there 0"),
    ("two thoughts", "<think>a</think>" + GOOD, "<think> is there 2"),
    ("two answers", GOOD + "<answer>c</answer>", "<answer> is there 2"),
    (
      "nested",
      "<think>a<think>b</think></think><answer>c</answer>",
      "<think> is there 2",
    ),
    (
      "answer in thoughts",
      "<think>a<answer>b</answer></think>",
      "out of order",
    ),
    ("swapped", "<answer>b</answer><think>a</think>", "out of order"),
    ("crossed", "<think>a<answer></think>b</answer>", "out of order"),
    ("ends swapped", "<think>a</answer><answer>b</think>", "out of order"),
    ("reversed", "</think>a<think></answer>b<answer>", "out of order"),
    ("before", "Sure! " + GOOD, "text before"),
    ("between", "<think>a</think>so<answer>b</answer>", "text between"),
    ("after", GOOD + " done", "text after"),
    ("after on a line", GOOD + "\ndone", "text after"),
    ("stray digit", GOOD + "4", "text after"),
    ("blank thoughts", "<think> \n</think><answer>b</answer>", "thoughts"),
    ("blank answer", "<think>a</think><answer></answer>", "answer is blank"),
    (
      "invisible thoughts",
      "<think>\u200b\u3164\u2800</think><answer>b</answer>",
      "thoughts are blank",
    ),
    (
      "invisible answer",
      "<think>a</think><answer>\u00ad\u2060</answer>",
      "answer is blank",
    ),
    ("case", GOOD.upper(), "<think> is there 0"),
    ("spaces in tags", GOOD.replace("<think>", "< think >"), "is there 0"),
    ("prefilled for nobody", GOOD[len("<think>") :], "is there 0"),
  )
  def test_bad(self, text, error):
    self.assertIn(error, format_error(text))

  @parameterized.parameters(
    # Blanks and what cannot be seen may stand outside.
    "\ufeff" + GOOD,
    "\u00a0\u3000" + GOOD + "\r\n",
    "\x00\u200b" + GOOD + "\u2800\u3164",
    # Looks like a tag, is none.
    "<think>a</THINK><Answer></think><answer>b</answer>",
    "<think>a<</think><answer><b></answer>",
    "<think>\uff1c/think\uff1e</think><answer>b</answer>",
    "<think>.</think><answer>0</answer>",
  )
  def test_harmless(self, text):
    self.assertIsNone(format_error(text))

  @parameterized.parameters(
    # A tag is exact.
    "<think\u200b>a</think><answer>b</answer>",
    "<thi\u00adnk>a</think><answer>b</answer>",
    "<think>a</think><answ\u2060er>b</answer>",
    "\uff1cthink\uff1ea\uff1c/think\uff1e<answer>b</answer>",
    "<\u0442hink>a</think><answer>b</answer>",
    '<think lang="en">a</think><answer>b</answer>',
    "<think>a</think><answer id=1>b</answer>",
    "<think >a</think ><answer >b</answer >",
    "<think/>a</think><answer>b</answer>",
    "<THINK>a</think><answer>b</answer>",
    "<think>a<\\/think><answer>b</answer>",
    "&lt;think&gt;a&lt;/think&gt;<answer>b</answer>",
    "<thoughts>a</thoughts><answer>b</answer>",
    # Once, in order.
    "<think>" + GOOD,
    GOOD + "</answer>",
    GOOD + "<answer>",
    "<think>a</think></think><answer>b</answer>",
    "<think>a</think><answer><think>b</answer>",
    "<think>a</think><answer>b</think></answer>",
    # Nothing outside.
    "```\n" + GOOD + "\n```",
    "**" + GOOD + "**",
    "<<think>>a<</think>><<answer>>b<</answer>>",
    "<think>a</think>---<answer>b</answer>",
    "<think>a</think><br><answer>b</answer>",
    "<think></think>a<answer>b</answer>",
    GOOD + "<|im_end|>",
    GOOD + "</s>",
    GOOD + "\ufffd",
    GOOD + "\u3002",
    # Not blank.
    "<think>\u200b\u200d\u2060</think><answer>b</answer>",
    "<think>\ufe0f\u0301</think><answer>b</answer>",
    "<think>\u115f\u1160\x01\u202e</think><answer>b</answer>",
    "<think>a</think><answer>\U000e0041\u180e</answer>",
    "<think></think><answer></answer>",
  )
  def test_attacks(self, text):
    self.assertIsNotNone(format_error(text))

  @parameterized.parameters(
    "</think><answer>b</answer>",
    " \n\u200b</think><answer>b</answer>",
    "a<answer>b</answer>",
    "a</think>x<answer>b</answer>",
    "a</think><answer>b</answer>x",
    "a</think><answer>b</answer><think>",
    "a<answer></think>b</answer>",
  )
  def test_attacks_on_the_prefilled_tag(self, text):
    self.assertIsNotNone(format_error(text, think_prefilled=True))

  def test_prefilled(self):
    rest = GOOD[len("<think>") :]
    self.assertIsNone(format_error(rest, think_prefilled=True))
    self.assertIsNone(format_error("\n" + rest + "\n", think_prefilled=True))
    self.assertIn("2 times", format_error(GOOD, think_prefilled=True))
    blank = "</think><answer>b</answer>"
    self.assertIn("thoughts", format_error(blank, think_prefilled=True))

  def test_long_texts_take_linear_time(self):
    start = time.perf_counter()
    format_error("<think>" * 20_000 + "a" + "<answer>" * 20_000)
    format_error("<think>" + " " * 100_000 + "</think><answer>b</answer>")
    format_error("<think>" + "\u200b" * 100_000 + "</think><answer>b</answer>")
    format_error(GOOD * 20_000)
    format_error("<" * 100_000)
    self.assertLess(time.perf_counter() - start, 1.0)

  @unittest.skipUnless(CASES.exists(), "no shared cases beside this checkout")
  def test_public_cases(self):
    cases = [json.loads(line) for line in CASES.read_text().splitlines()]
    cases = [case for case in cases if case["kind"] == "format"]
    self.assertNotEmpty(cases)
    for case in cases:
      text = case["input"]
      if isinstance(text, dict):
        text = "".join(part * count for part, count in text["parts"])
      prefilled = bool(case["gold"] and case["gold"]["think_prefilled"])
      error = format_error(text, prefilled)
      self.assertEqual(error is None, case["expect"], case["id"])


class FormatRewardTest(parameterized.TestCase):
  def test_value_and_reason(self):
    reward = format_reward(QUESTION, Response(GOOD, 9, "eos"))
    self.assertEqual((reward.value, reward.reason), (1.0, "well formed"))
    reward = format_reward(QUESTION, Response(GOOD + "!", 9, "eos"))
    self.assertEqual(reward.value, 0.0)
    self.assertIn("text after", reward.reason)

  def test_knows_of_the_prefilled_tag(self):
    rest = GOOD[len("<think>") :]
    self.assertEqual(
      format_reward(QUESTION, Response(rest, 9, "eos", True)).value, 1.0
    )

  @parameterized.parameters("length", "repetition")
  def test_cut_off_earns_nothing(self, finish_reason):
    reward = format_reward(QUESTION, Response(GOOD, 9, finish_reason))
    self.assertEqual(reward.value, 0.0)
    self.assertIn("after 9 tokens", reward.reason)

  def test_unknown_finish_reason_raises(self):
    with self.assertRaisesRegex(ValueError, "finish_reason is 'stop'"):
      format_reward(QUESTION, Response(GOOD, 9, "stop"))


if __name__ == "__main__":
  absltest.main()
