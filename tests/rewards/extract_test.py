from absl.testing import absltest, parameterized

from r1jax.rewards import extract


def _answer_text(text, think_prefilled=False):
  answer = extract.answer(text, think_prefilled)
  return None if answer is None else answer.text


class AnswerTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ("plain", "<think>a</think><answer> 4 </answer>", "4"),
    ("no tags", " 4\n", "4"),
    ("no answer part", "<think>a</think> 4", "4"),
    ("opening tag in the prompt", "a</think><answer>4</answer>", "4"),
    ("last of two", "<answer>4</answer><answer>5</answer>", "5"),
    ("text after it", "<answer>4</answer> or rather 5", "4"),
    ("nested", "<answer><answer>4</answer>5</answer>", "4"),
    ("only in thoughts", "<think><answer>4</answer></think>", None),
    ("only before", "<answer>4</answer><think>a</think>", None),
    ("thoughts not closed", "<think>it is <answer>4</answer>", None),
    ("opened again", "<think>a</think><think><answer>4</answer>", None),
    ("answer not closed", "<think>a</think><answer>4", None),
    ("last one not closed", "<answer>4</answer><answer>5", None),
    ("blank", "<think>a</think><answer> \n\u200b</answer>", None),
    ("empty", "", None),
    ("other case", "<Answer>4</Answer>", "<Answer>4</Answer>"),
    ("thoughts in the answer", "<answer>4</think></answer>", "</answer>"),
  )
  def test_answer_text(self, text, answer):
    self.assertEqual(_answer_text(text), answer)

  def test_it_knows_whether_it_was_tagged(self):
    self.assertTrue(extract.answer("<answer>4</answer>").is_tagged)
    self.assertFalse(extract.answer("<think>a</think>4").is_tagged)

  def test_prefilled_thoughts_must_be_closed(self):
    text = "it is <answer>4</answer>"
    self.assertEqual(_answer_text(text), "4")
    self.assertIsNone(_answer_text(text, think_prefilled=True))
    self.assertEqual(_answer_text("a</think>4", True), "4")

  @parameterized.named_parameters(
    ("plain", "<think>a</think>4", False, "a"),
    ("cut off", "<think>a b", False, "a b"),
    ("prefilled", "a</think>4", True, "a"),
    ("prefilled and cut off", "a b", True, "a b"),
    ("to the last end", "<think>a</think>b</think>4", False, "a</think>b"),
    ("empty", "<think></think>4", False, ""),
    ("none", "4", False, None),
    ("end alone", "a</think>4", False, None),
  )
  def test_thoughts(self, text, think_prefilled, thoughts):
    self.assertEqual(extract.thoughts(text, think_prefilled), thoughts)


class FinalTest(parameterized.TestCase):
  @parameterized.parameters(
    (r"\boxed{1} then \boxed{2}", "2"),
    (r"\boxed{\frac{1}{2}} and \boxed", r"\frac{1}{2}"),
    (r"\boxed{\fbox{3}}", r"\fbox{3}"),
    (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
    (r"\boxed 5, as asked", "5"),
    (r"\boxed{1} \boxed{2", "1"),
    (r"\boxed{1", None),
    (r"\boxed{}", None),
    (r"The answer is 4. It is \boxed{5}.", "5"),
    ("So the answer is 4. I hope it is right.", "4."),
    ("Answer: 4\nFinal Answer: **5**", "5"),
    ("**Final Answer**\n5", "5"),
    ("#### 4\nThat is all.", "4"),
    ("Final Answer: The largest $n$ is 34.", "34."),
    ("The correct option is (B).", "(B)."),
    ("the correct choice: B", "B"),
    ("Which option is best: A or B", None),
    ("We know 7 and 9 divide 63.", None),
    ("4", None),
  )
  def test_untagged(self, text, said):
    found = extract.final(extract.Answer(text, False))
    known = (None, said) if said is None else (said, said.strip("."))
    self.assertIn(found, known)

  @parameterized.parameters(
    ("4", "4"),
    ("so 3 and 4", "so 3 and 4"),
    ("The answer is 4", "4"),
    (r"4, or \boxed{5}", "5"),
    (r"\boxed{5", r"\boxed{5"),
  )
  def test_tagged(self, text, said):
    self.assertEqual(extract.final(extract.Answer(text, True)), said)


class FormatTest(parameterized.TestCase):
  @parameterized.parameters(
    ("stated", "so <answer>4</answer>", "4"),
    ("stated", "the answer is 4", "the answer is 4"),
    ("tags", "so <answer>4</answer>", "4"),
    ("tags", "4", None),
    ("boxed", r"so \boxed{4}, not 5", "4"),
    ("boxed", r"\boxed{\frac{1}{2}} or \boxed{3}", "3"),
    ("boxed", "4", None),
    ("boxed", r"\boxed{ }", None),
    ("boxed", r"<think>\boxed{4}</think> four", None),
    ("last_line", "It is 4.\n\n 5 \n\u200b\n", "5"),
    ("last_number", "4 or 5 or 6", "6"),
    ("last_number", "<think>7</think> none", None),
    ("last_number", "<answer>4</answer> 5", "4"),
    ("last_number", "<think>never closed, 4", None),
  )
  def test_formats(self, name, text, said):
    found = extract.graded(text, False, {"answer_format": name})
    self.assertEqual(found and found.text, said)
    if found and name in ("boxed", "last_line", "last_number"):
      self.assertEqual(extract.final(found), said)

  def test_none_is_stated(self):
    self.assertEqual(
      extract.graded("a</think> 4", True, {}), extract.Answer("4", False)
    )

  @parameterized.parameters(
    ("4 - 1 - 7 = -4", "-4"),
    ("it is \u22124.", "-4"),
    ("10-3", "3"),
    ("(2)-3, x-3, [1]-3", "3"),
    ("x2 is 4x", "4"),
    ("1,234,567.50 dollars", "1234567.50"),
    ("in 3,4", "4"),
    ("3/4", "3/4"),
    ("**42**.", "42"),
    ("\u0664", None),
    ("four", None),
  )
  def test_numbers(self, text, said):
    found = extract.last_number(extract.Answer(text, False))
    self.assertEqual(found and found.text, said)


class BlankTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ("nothing", ""),
    ("white space", " \t\r\n\u3000\u00a0\u2028"),
    ("zero width", "\u200b\u200c\u200d\u2060\ufeff"),
    ("soft hyphen and marks", "\u00ad\u202e\ufe0f\u034f"),
    ("fillers", "\u3164\u115f\u1160\uffa0\u2800"),
    ("control", "\x00\x07"),
    ("tags block", "\U000e0041"),
  )
  def test_blank(self, text):
    self.assertTrue(extract.is_blank(text))
    self.assertFalse(extract.is_blank(text + "." + text))

  @parameterized.parameters("a", "7", "。", "不", "√", "🎉")
  def test_visible(self, text):
    self.assertFalse(extract.is_blank(text))


if __name__ == "__main__":
  absltest.main()
