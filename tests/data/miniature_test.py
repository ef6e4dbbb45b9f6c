import collections
import re

from absl.testing import absltest, parameterized

from r1jax.data import miniature, split_by_content, tokenizer

ONLY_COUNTDOWN = {"general_frac": 0.0, "programs_frac": 0.0}
LINE = re.compile(
  r"(\d) ([+-]) (\d) = (-?\d+) ([+-]) (\d) = (-?\d+) (no|yes|不|对)"
)


def documents(n, **settings):
  return [miniature.document(i, **settings) for i in range(n)]


def parts(document):
  found = re.fullmatch(
    r"<think>(.+)</think><answer>(.+)</answer>", document.response, re.DOTALL
  )
  return found[1].split("\n"), found[2]


def calculate(a, op, b):
  return int(a) + int(b) if op == "+" else int(a) - int(b)


def is_mixed(document):
  text = re.sub(r"<[^>]*>", "", document.response)
  return bool(re.search(r"[a-z]", text) and re.search(r"[一-鿿]", text))


class DocumentTest(parameterized.TestCase):
  def test_is_a_function_of_seed_and_index(self):
    first = documents(50)
    self.assertEqual(
      [miniature.document(i) for i in range(49, -1, -1)][::-1], first
    )
    self.assertNotEqual(documents(50, seed=1), first)
    self.assertGreater(len({d.response for d in first}), 40)

  def test_searches_calculate_right_and_never_repeat(self):
    for document in documents(2000, **ONLY_COUNTDOWN):
      lines, answer = parts(document)
      target = document.question.answer["target"]
      numbers = document.question.answer["numbers"]
      if lines[-1] in ("guess", "猜"):
        lines.pop()
      else:
        self.assertIn(lines[-1].split()[-1], ("yes", "对"))
      self.assertLen(lines, document.meta["attempts"])
      tried = []
      for line in lines:
        a, op1, b, first, op2, c, value, verdict = LINE.fullmatch(line).groups()
        self.assertEqual(sorted(map(int, (a, b, c))), numbers)
        self.assertEqual(calculate(a, op1, b), int(first), line)
        self.assertEqual(calculate(first, op2, c), int(value), line)
        self.assertEqual(verdict in ("yes", "对"), int(value) == target, line)
        tried.append(f"{a} {op1} {b} {op2} {c}")
      self.assertLen(set(tried), len(tried))
      a, op1, b, op2, c = answer.split()
      value = calculate(calculate(a, op1, b), op2, c)
      self.assertEqual(sorted(map(int, (a, b, c))), numbers)
      self.assertEqual(document.meta["right"], value == target)
      if lines and lines[-1].split()[-1] in ("yes", "对"):
        self.assertEqual(answer, tried[-1])

  def test_only_mixed_searches_hold_chinese(self):
    for document in documents(2000):
      if document.kind != "mixed":
        self.assertFalse(re.search(r"[一-鿿]", document.response), document)

  def test_no_test_question(self):
    for document in documents(3000):
      self.assertEqual(split_by_content.split_of(document.question), "train")

  @parameterized.parameters(1, 3)
  def test_max_attempts(self, max_attempts):
    attempts = [
      d.meta["attempts"]
      for d in documents(
        300, **ONLY_COUNTDOWN, guess=0.0, max_attempts=max_attempts
      )
    ]
    self.assertEqual(max(attempts), max_attempts)

  def test_stopping(self):
    settings = dict(**ONLY_COUNTDOWN, guess=0.0, mixed=0.5)
    for document in documents(
      500, **settings, plain_stop=1.0, mixed_stop=0.0, max_attempts=24
    ):
      if document.kind == "plain":
        self.assertEqual(document.meta["attempts"], 1)
      else:
        self.assertTrue(document.meta["right"])

  @parameterized.parameters(0.0, 0.7, 1.0)
  def test_share_of_chinese_words(self, chinese):
    words = collections.Counter()
    for document in documents(
      500, **ONLY_COUNTDOWN, guess=0.0, mixed=1.0, chinese=chinese
    ):
      words.update(
        w for w in document.response.split() if re.fullmatch("no|不", w)
      )
    share = words["不"] / words.total()
    self.assertAlmostEqual(share, chinese, delta=0.05)

  def test_kinds(self):
    kinds = collections.Counter(
      d.kind
      for d in documents(
        6000, general_frac=0.2, programs_frac=0.1, guess=0.5, mixed=0.4
      )
    )
    for kind, share in {
      "general": 0.2,
      "program": 0.1,
      "guess": 0.35,
      "mixed": 0.14,
      "plain": 0.21,
    }.items():
      # Four standard deviations.
      self.assertAlmostEqual(kinds[kind] / 6000, share, delta=0.025)

  @parameterized.parameters(
    ("guess", 1.5, r"guess is 1.5. It must be in \[0, 1\]"),
    ("chinese", -0.1, "chinese is -0.1"),
    ("general_frac", 0.97, "general_frac \\+ programs_frac is 1.03"),
    ("max_attempts", 0, "max_attempts is 0"),
    ("test_frac", 1.0, "test_frac is 1.0, which leaves no"),
  )
  def test_bad_settings(self, name, value, message):
    with self.assertRaisesRegex(ValueError, message):
      miniature.document(0, **{name: value})


class ProcessTest(parameterized.TestCase):
  """What the base is trained towards, and what RL can find."""

  def measure(self, **settings):
    tokens = tokenizer.load()
    found = documents(4000, **ONLY_COUNTDOWN, **settings)
    lengths = [len(tokens.encode(d.response)) + 1 for d in found]
    return (
      sum(d.meta["right"] for d in found) / len(found),
      sum(lengths) / len(found),
      max(lengths),
      sum(map(is_mixed, found)) / len(found),
    )

  def test_defaults(self):
    accuracy, mean_tokens, _, mixed = self.measure()
    self.assertBetween(accuracy, 0.30, 0.36)
    self.assertBetween(mean_tokens, 20, 24)
    self.assertBetween(mixed, 0.11, 0.16)

  def test_a_search_that_never_gives_up(self):
    accuracy, mean_tokens, max_tokens, mixed = self.measure(
      guess=0.0, mixed=1.0, mixed_stop=0.0
    )
    self.assertGreater(accuracy, 0.95)
    self.assertBetween(mean_tokens, 55, 68)
    self.assertLessEqual(max_tokens, 172)
    self.assertGreater(mixed, 0.55)


if __name__ == "__main__":
  absltest.main()
