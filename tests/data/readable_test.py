from absl.testing import absltest, parameterized

from r1jax.data import readable
from r1jax.records import Question, Response, Reward

SEARCH = "3 + 5 = 8 - 2 = 6 no\n3 + 5 = 8 + 2 = 10 yes"
COUNTDOWN = Question(
  "c", "2 3 5 = 10", {"numbers": [2, 3, 5], "target": 10}, "countdown"
)
OTHER = Question("o", "what color is snow?", None, "none")


def text(thoughts, answer="3 + 5 + 2"):
  return f"<think>{thoughts}</think><answer>{answer}</answer>"


def drop(name, thoughts, question=COUNTDOWN, finish="eos", rewards=None, **of):
  response = Response(text(thoughts), 9, finish)
  return readable.FILTERS[name](question, response, rewards or {}, **of)


class FiltersTest(parameterized.TestCase):
  @parameterized.parameters(
    ("eos", None), ("length", "cut_off"), ("repetition", "cut_off")
  )
  def test_finished(self, finish, reason):
    self.assertEqual(drop("finished", "x", finish=finish), reason)

  @parameterized.parameters(
    (Reward(1.0, ""), None),
    (Reward(0.5, ""), None),
    (Reward(0.4, ""), "format_too_low"),
    (Reward(1.0, "", "timeout"), "format_timeout"),
  )
  def test_rewarded(self, reward, reason):
    rewards = {"format": reward}
    found = drop("rewarded", "x", rewards=rewards, reward="format", least=0.5)
    self.assertEqual(found, reason)

  @parameterized.parameters(
    ("en", "3 no", None),
    ("en", "3 不", "another_language"),
    ("en", "no 对", "another_language"),
    ("zh", "3 不", None),
    ("zh", "3 no", "another_language"),
    ("en", "3 + 5", None),
  )
  def test_one_language(self, language, thoughts, reason):
    # The answer's words count too, and this one has none.
    question = COUNTDOWN._replace(language=language)
    self.assertEqual(drop("one_language", thoughts, question), reason)

  def test_paragraphs_are_lines(self):
    lines = "a" * 5 + "\n" + "b" * 6
    self.assertIsNone(drop("short_paragraphs", lines, max_chars=6))
    reason = drop("short_paragraphs", lines, max_chars=5)
    self.assertEqual(reason, "long_paragraph")

  def test_code_blocks(self):
    self.assertEqual(drop("no_code", "so\n```x```"), "code_in_thoughts")
    self.assertIsNone(drop("no_code", "so `x`"))

  def test_repeats(self):
    self.assertIsNone(drop("no_repeats", "a\nb\nc\na", max_frac=0.25))
    self.assertEqual(
      drop("no_repeats", "a\nb\nc\n a ", max_frac=0.24), "repeats_itself"
    )

  @parameterized.parameters(
    (2, 2, False, None),
    (3, 9, False, "search_too_short"),
    (1, 1, False, "search_too_long"),
    (1, 9, True, "did_not_give_up"),
  )
  def test_searches(self, least, most, gave_up, reason):
    limits = dict(least=least, most=most, gave_up=gave_up)
    self.assertEqual(drop("searches", SEARCH, **limits), reason)
    self.assertIsNone(drop("searches", SEARCH, OTHER, **limits))

  @parameterized.parameters("guess", "猜")
  def test_a_search_that_gave_up(self, word):
    limits = dict(least=2, most=2, gave_up=True)
    self.assertIsNone(drop("searches", f"3 no\n{word}", **limits))

  def test_a_response_without_thoughts_has_none_to_drop(self):
    response = Response("no tags", 2, "eos")
    for name, arguments in (
      ("no_code", {}),
      ("short_paragraphs", dict(max_chars=1)),
      ("no_repeats", dict(max_frac=0.0)),
    ):
      found = readable.FILTERS[name](COUNTDOWN, response, {}, **arguments)
      self.assertIsNone(found)


class RefinersTest(parameterized.TestCase):
  def test_as_it_is(self):
    self.assertEqual(readable.as_it_is(COUNTDOWN, "x 不"), "x 不")

  def test_verdicts_are_translated_and_repeated_lines_left_out(self):
    thoughts = "3 - 5 = -2 不\n3 - 5 = -2 no\n5 - 3 = 2 + 2 = 4 不\n5 对"
    self.assertEqual(
      readable.miniature(COUNTDOWN, text(thoughts)),
      text("3 - 5 = -2 no\n5 - 3 = 2 + 2 = 4 no\n5 yes"),
    )

  def test_into_the_question_s_language(self):
    question = COUNTDOWN._replace(language="zh")
    self.assertEqual(
      readable.miniature(question, text("1 no\n2 guess")), text("1 不\n2 猜")
    )

  def test_other_questions_keep_their_text(self):
    self.assertEqual(readable.miniature(OTHER, "no 不"), "no 不")


if __name__ == "__main__":
  absltest.main()
