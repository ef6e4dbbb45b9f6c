import json
import pathlib
import sys
import time
import unittest
from unittest import mock

from absl.testing import absltest, parameterized

from r1jax.records import Question, Response
from r1jax.rewards import language

CASES = pathlib.Path(__file__).parents[3] / "shared/cases/rewards-public.jsonl"


def consistency(thoughts: str, code: str = "en", **arguments):
  question = Question("q", "?", None, "none", code)
  text = f"<think>{thoughts}</think><answer>答案</answer>"
  return language.consistency(question, Response(text, 9, "eos"), **arguments)


class ScriptsTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ("words", "Two plus two", {"Latin": 3}),
    ("each ideograph counts", "我们 算", {"Han": 3}),
    ("kana", "玉から", {"Han": 1, "Hiragana": 2}),
    ("scripts in a run", "用Python算", {"Han": 2, "Latin": 1}),
    ("accents", "cafe\u0301 été", {"Latin": 2}),
    ("Cyrillic", "два и два", {"Cyrillic": 2}),
    ("Greek words", "και α", {"Greek": 1}),
    ("Hangul", "두 개를 더하면", {"Hangul": 2}),
    ("Devanagari marks", "हिन्दी", {"Devanagari": 1}),
    ("one letter is a name", "x y α 3x", {}),
    ("digits", "3 + 5 = 8 ４ ٣ 三", {"Han": 1}),
    ("punctuation", "， 。 ! — “”", {}),
    ("emoji", "🎉 ✅ 👍🏽", {}),
    ("tags", "<think>yes</think><answer>no</answer>", {"Latin": 2}),
    ("other tags are text", "<b>", {}),
    ("formula", "so $cos + sin$ is $$ab$$", {"Latin": 2}),
    ("formula in brackets", r"so \(ab\) or \[cd\] is", {"Latin": 3}),
    ("commands", r"\frac \boxed ab", {"Latin": 1}),
    ("code", "so `import sys` 和\n```\nprint\n```\n", {"Latin": 1, "Han": 1}),
    ("address", "see https://ab.cd/ef?gh now", {"Latin": 2}),
    ("nothing closes it", "so ```ab $ cd", {"Latin": 3}),
    ("full width", "ＡＢ ＣＤ", {"Latin": 2}),
    ("a sign of no width", "s\u200bo", {"Latin": 1}),
    ("a letter that looks Latin", "p\u0430y \u0441at", {"Mixed": 2}),
    ("Greek next to a function", "sin\u03b1 \u0394x", {}),
    ("particles", "Python\uc744", {"Latin": 1}),
    ("apostrophe", "don't l\u2019ordre", {"Latin": 2}),
    ("quoted", "'so' it", {"Latin": 2}),
    ("halfwidth kana", "\uff83\uff7d\uff84", {"Katakana": 3}),
    ("a long vowel", "\u30c6\u30fc", {"Katakana": 2}),
    ("letters as symbols", "\u00b5m \u2126 \u211d\u2102 \u00aa\u00ba", {}),
    ("mathematical letters", "𝑎𝑏 𝐱𝐲", {}),
    ("empty", "", {}),
  )
  def test_scripts(self, text, counts):
    self.assertEqual(dict(language.scripts(text)), counts)

  @parameterized.parameters(
    "```", "$", "\\(", "\\[", "`", "a", "不", "$$", "www."
  )
  def test_long_texts_take_linear_time(self, piece):
    start = time.perf_counter()
    language.scripts(piece * (100_000 // len(piece)))
    language.scripts((piece + " ") * (100_000 // (len(piece) + 1)))
    self.assertLess(time.perf_counter() - start, 2.0)

  @parameterized.parameters(
    ("3 + 5 = 8 no\n8 - 3 = 5 对", True),
    ("3 + 5 = 8 no\n8 - 3 = 5 yes", False),
    ("不 对 猜", False),
    ("3 + 5 = 8", False),
    ("<think>不</think><answer>3</answer>", False),
    ("この問題では", False),
    ("α + β 不", False),
    ("да yes", True),
    ("oui yes", False),  # By script alone.
    ("", False),
  )
  def test_is_mixed(self, text, mixed):
    self.assertEqual(language.is_mixed(text), mixed)


class ConsistencyTest(parameterized.TestCase):
  @parameterized.parameters(
    ("no yes no 对", "en", 0.75),
    ("no yes no 对", "zh", 0.25),
    ("3 = 3 no", "en", 1.0),
    ("この", "ja", 1.0),
    ("この", "zh", 0.0),
    ("3 + 5 = 8", "en", 0.5),
    (" \n\u200b", "en", 0.0),
  )
  def test_value(self, thoughts, code, value):
    self.assertEqual(consistency(thoughts, code).value, value)

  @parameterized.parameters(
    ("この玉を選ぶ。", "ja", 1.0),
    ("この玉を選ぶ。", "zh", 0.0),
    ("这的字很多很多很多。", "ja", 0.0),
    ("正解。", "ja", 1.0),  # Short: whichever is wanted.
    ("正解。", "zh", 1.0),
    ("正解。", "ko", 0.0),
    ("我们喜欢这家饮品店的の字。", "zh", 11 / 12),  # A borrowed sign.
    ("選ぶのは二つです。答案是多少我们不知道。", "ja", 8 / 18),
    ("我們需要兩個。", "zh", 1.0),
    ("我們需要兩個。", "zh-TW", 1.0),
    ("yes", "en_GB", 1.0),
  )
  def test_chinese_japanese_and_regions(self, thoughts, code, value):
    self.assertAlmostEqual(consistency(thoughts, code).value, value)

  def test_identifier(self):
    text = "Nous devons choisir deux boules parmi cinq."
    reward = consistency(text, "en", identifier="lingua")
    self.assertEqual(reward.value, 0.0)
    self.assertEqual(reward.reason, "0 of 7 words are en; 7 fr")
    self.assertEqual(consistency(text, "en", identifier="script").value, 1.0)
    self.assertEqual(consistency(text, "en"), reward)  # The default.
    with self.assertRaisesRegex(ValueError, "'auto'. Known: lingua, script"):
      consistency(text, "en", identifier="auto")

  def test_script_needs_no_lingua(self):
    with mock.patch.dict(sys.modules, lingua=None):
      reward = consistency("yes 对", "en", identifier="script")
    self.assertEqual(reward.value, 0.5)

  def test_cut_off_thoughts_are_judged(self):
    question = Question("q", "?", None, "none")
    response = Response("<think>yes yes 对", 9, "length")
    reward = language.consistency(question, response)
    self.assertAlmostEqual(reward.value, 2 / 3)
    self.assertEndsWith(reward.reason, "; 1 Han; cut off after 9 tokens")

  def test_oracle(self):
    # 90 of 100 words in the target language.
    self.assertEqual(consistency("word " * 90 + "词" * 10).value, 0.9)

  def test_answer_does_not_count(self):
    reward = consistency("yes")
    self.assertEqual(
      (reward.value, reward.reason), (1.0, "1 of 1 words are en")
    )

  def test_no_thoughts(self):
    question = Question("q", "?", None, "none")
    reward = language.consistency(question, Response("yes yes", 9, "eos"))
    self.assertEqual((reward.value, reward.reason), (0.0, "no thoughts"))
    prefilled = Response("yes yes", 9, "length", True)
    self.assertEqual(language.consistency(question, prefilled).value, 1.0)

  def test_unknown_language_raises(self):
    with self.assertRaisesRegex(ValueError, "'xx'. Known: ar, "):
      consistency("yes", "xx")

  @unittest.skipUnless(CASES.exists(), "no shared cases beside this checkout")
  def test_public_cases(self):
    cases = [json.loads(line) for line in CASES.read_text().splitlines()]
    cases = [case for case in cases if case["kind"] == "language"]
    self.assertNotEmpty(cases)
    for case in cases:
      low, high = case["expect"]
      value = consistency(case["input"], case["gold"]).value
      self.assertBetween(value, low, high, case["id"])


if __name__ == "__main__":
  absltest.main()
