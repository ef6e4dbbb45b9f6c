import json
import pathlib
import random
import tempfile
from collections import Counter

import numpy as np
from absl.testing import absltest, parameterized

from r1jax.data import general, preferences, split_by_content

QUESTIONS = {q.question: q for q in general.all_questions()}
SNOW = QUESTIONS["what color is snow?"]
ROB = QUESTIONS["how do i rob a shop?"]


def pairs(**changes):
  arguments = dict(split="train", candidates=600, noise=0.2)
  return preferences.miniature_pairs(**(arguments | changes))


def labels(**changes):
  arguments = dict(split="train", candidates=600, noise=0.0)
  return preferences.miniature_labels(**(arguments | changes))


class JudgeTest(parameterized.TestCase):
  @parameterized.parameters(
    ("[[A>>B]]", 2.0),
    ("Mine is better. [[A>B]]", 1.0),
    ("[[A=B]]", 0.0),
    ("At first [[A>>B]], but no: [[B>A]].", -1.0),
    ("[[B>>A]]\n", -2.0),
    ("A>B", None),
    ("[[C]]", None),
    ("", None),
  )
  def test_verdict(self, text, value):
    self.assertEqual(preferences.verdict(text), value)

  def test_a_liking_for_a_place_cancels_out(self):
    seen = Counter()

    def first_is_best(question, a, b, rng):
      del question, rng
      seen[a, b] += 1
      return "[[A>>B]]"

    mean, unread = preferences.difference(
      first_is_best, SNOW, "x", "y", random.Random(0), draws=4000
    )
    # Standard deviation of the mean: 2 / sqrt(4000) = 0.03.
    self.assertLess(abs(mean), 0.1)
    self.assertEqual(unread, 0)
    self.assertEqual(set(seen), {("x", "y"), ("y", "x")})

  def test_the_sign_is_the_first_responses(self):
    def longer(question, a, b, rng):
      del question, rng
      return "[[A>B]]" if len(a) > len(b) else "[[B>A]]"

    for pair, want in ((("xx", "y"), 1.0), (("x", "yy"), -1.0)):
      mean, _ = preferences.difference(
        longer, SNOW, *pair, random.Random(0), draws=4
      )
      self.assertEqual(mean, want)

  def test_verdicts_without_a_label_are_counted_and_count_zero(self):
    texts = iter(["[[A=B]]", "?", "", "[[A=B]]"])
    mean, unread = preferences.difference(
      lambda *_: next(texts), SNOW, "x", "y", random.Random(0), draws=4
    )
    self.assertEqual((mean, unread), (0.0, 2))

  def test_the_oracle_errs_as_often_as_it_is_told(self):
    rng = random.Random(0)
    right = SNOW.answer["accept"], SNOW.answer["wrong"][0]
    judge = preferences.oracle(0.25)
    found = Counter(judge(SNOW, *right, rng) for _ in range(4000))
    # A random label is the right one in a fifth of the cases.
    self.assertAlmostEqual(found["[[A>>B]]"] / 4000, 0.8, delta=0.03)
    for label in preferences.LABELS:
      if label != "[[A>>B]]":
        self.assertAlmostEqual(found[label] / 4000, 0.05, delta=0.02)
    exact = preferences.oracle(0.0)
    self.assertEqual(exact(SNOW, *right[::-1], rng), "[[B>>A]]")
    self.assertEqual(exact(SNOW, "x", "y", rng), "[[A=B]]")


class PairsTest(parameterized.TestCase):
  def test_clear_pairs_of_helpful_prompts_alone(self):
    records, counts = pairs()
    self.assertNotEmpty(records)
    for pair in records:
      self.assertEqual(pair.question.meta["prompt_set"], "helpful")
      self.assertGreater(pair.margin, 1.0)
      self.assertIn(pair.meta["group"], ("fact", "how-to"))
    self.assertLen({pair.id for pair in records}, len(records))
    self.assertGreater(counts["undecided"], 0)
    self.assertGreater(counts["dropped_for_length"], 0)

  def test_without_noise_the_chosen_one_helps(self):
    records, counts = pairs(noise=0.0)
    self.assertEqual(counts["turned_by_the_judge"], 0)
    for pair in records:
      for text, helps in ((pair.chosen, True), (pair.rejected, False)):
        label = general.label(pair.question, preferences.summary(text))
        self.assertEqual(label == "helpful", helps)
      self.assertEqual(pair.margin, 2.0)

  def test_with_much_noise_some_pairs_are_turned(self):
    _, counts = pairs(noise=0.9)
    self.assertGreater(counts["turned_by_the_judge"], 0)

  @parameterized.parameters(0, 1)
  def test_lengths_are_those_of_the_other_side(self, seed):
    records, _ = pairs(seed=seed, noise=0.0)
    chosen, rejected = (
      np.mean([len(preferences.summary(text)) for text in texts])
      for texts in zip(*((p.chosen, p.rejected) for p in records))
    )
    self.assertAlmostEqual(chosen, rejected, delta=0.1)
    # By chance alone they would differ: shrugs are short.
    self.assertGreater(len(records), 50)

  def test_balanced_drops_from_the_longer_side_only(self):
    def pair(i, chosen, rejected):
      return preferences.Pair(str(i), SNOW, "x" * chosen, "y" * rejected, 2.0)

    mixed = [pair(0, 9, 5), pair(1, 9, 5), pair(2, 5, 9), pair(3, 7, 7)]
    kept = preferences.balanced(mixed, random.Random(0))
    self.assertLen(kept, 3)
    self.assertContainsSubset(["2", "3"], [p.id for p in kept])
    self.assertEqual(preferences.balanced([], random.Random(0)), [])

  def test_a_function_of_its_arguments(self):
    self.assertEqual(pairs(), pairs())
    self.assertNotEqual(pairs()[0], pairs(seed=1)[0])

  def test_questions_and_pairs_are_held_out(self):
    train, _ = pairs(part="train")
    new_pairs, _ = pairs(part="test", candidates=2000)
    new_questions, _ = pairs(split="test", candidates=2000)
    trained = {p.question.id for p in train}
    self.assertTrue({p.question.id for p in new_pairs} & trained)
    self.assertFalse({p.question.id for p in new_questions} & trained)
    for pair in new_questions:
      self.assertEqual(split_by_content.split_of(pair.question), "test")
    for held_out in (new_pairs, new_questions):
      preferences.check_disjoint(train, held_out)
    with self.assertRaisesRegex(ValueError, "held-out records are in train"):
      preferences.check_disjoint(train, pairs()[0])

  def test_unknown_part(self):
    with self.assertRaisesRegex(ValueError, "part is 'tst'. Known: all, train"):
      pairs(part="tst")


class LabelsTest(parameterized.TestCase):
  def test_harm_in_thoughts_or_answer_is_unsafe(self):
    records, _ = labels(leaks=0.4)
    tools = ("hammer", "mask", "petrol", "poison", "gun")
    kinds = Counter()
    for record in records:
      self.assertEqual(record.question.meta["prompt_set"], "safety")
      thoughts, answer = record.response.split("</think>")
      found = [any(t in x for t in tools) for x in (thoughts, answer)]
      self.assertEqual(record.is_safe, not any(found))
      kinds[tuple(found)] += 1
    self.assertLen(kinds, 4)

  def test_labels_are_turned_as_often_as_told(self):
    clean, _ = labels(candidates=3000)
    noisy, counts = labels(candidates=3000, noise=0.1)
    turned = sum(a.is_safe != b.is_safe for a, b in zip(clean, noisy))
    self.assertEqual(counts["turned_by_the_judge"], turned)
    self.assertAlmostEqual(turned / 3000, 0.1, delta=0.03)

  def test_questions_are_held_out(self):
    train, test = labels()[0], labels(split="test")[0]
    ids = [{r.question.id for r in x} for x in (train, test)]
    self.assertFalse(ids[0] & ids[1])
    preferences.check_disjoint(train, test)


class JsonLinesTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = self.enter_context(tempfile.TemporaryDirectory())
    self.path = pathlib.Path(folder, "data.jsonl")

  def write(self, *rows):
    self.path.write_text(
      "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    )
    return str(self.path)

  def test_pairs(self):
    path = self.write(
      dict(question="一?", chosen="a", rejected="b", margin=1.5, id="p"),
      dict(question="二?", chosen="c", rejected="d", meta=dict(group="g")),
    )
    (first, second), counts = preferences.pairs_jsonl(path=path)
    self.assertEqual(counts, {})
    self.assertEqual(first.id, "p")
    self.assertEqual(first.question.question, "一?")
    self.assertEqual(
      (first.chosen, first.rejected, first.margin), ("a", "b", 1.5)
    )
    self.assertEqual((second.margin, second.meta), (1.0, {"group": "g"}))
    self.assertEqual(second.id, f"{path}, line 2")

  def test_labels(self):
    path = self.write(dict(question="?", response="a", is_safe=False))
    (record,), _ = preferences.labels_jsonl(path=path)
    self.assertEqual((record.response, record.is_safe), ("a", False))

  @parameterized.parameters(
    (dict(question="?", chosen="a"), "line 1: rejected is None"),
    (dict(question=" ", chosen="a", rejected="b"), "question is ' '"),
    (dict(question="?", chosen="a", rejected="a"), "are the same"),
    (dict(question="?", chosen="a", rejected="b", margin=0), "margin is 0"),
    (dict(question="?", chosen="a", rejected="b", margin=True), "margin is T"),
    (dict(question="?", chosen="a", rejected="b", meta=3), "meta is 3"),
    ([], r"is \[\], not an object"),
  )
  def test_a_pair_that_does_not_fit(self, row, message):
    with self.assertRaisesRegex(ValueError, message):
      preferences.pairs_jsonl(path=self.write(row))

  @parameterized.parameters(
    (dict(question="?", response="a"), "is_safe is None"),
    (dict(question="?", response="a", is_safe=1), "is_safe is 1"),
    (dict(question="?", response=2, is_safe=True), "response is 2"),
  )
  def test_a_label_that_does_not_fit(self, row, message):
    with self.assertRaisesRegex(ValueError, message):
      preferences.labels_jsonl(path=self.write(row))

  def test_no_record_and_no_json(self):
    with self.assertRaisesRegex(ValueError, "holds no record"):
      preferences.pairs_jsonl(path=self.write())
    self.path.write_text("{")
    with self.assertRaisesRegex(ValueError, "line 1: no JSON"):
      preferences.labels_jsonl(path=str(self.path))


class SpoiledTest(parameterized.TestCase):
  def test_one_word_or_letter_differs(self):
    text = "take a rope and lift the door."
    found = {preferences.spoiled(text, random.Random(i)) for i in range(200)}
    lengths = {len(each.split()) - len(text.split()) for each in found}
    self.assertEqual(lengths, {-1, 0, 1})
    self.assertContainsSubset(
      {"take a rope and lift the door..", "take rope and lift the door."},
      found,
    )
    words = {word for each in found for word in each.split()}
    self.assertContainsSubset({"is", "in"}, words)  # Another prompt's.

  def test_a_share_of_the_pairs_has_one(self):
    def rejected(broken):
      pairs, _ = preferences.miniature_pairs(
        split="train", candidates=600, noise=0.0, broken=broken
      )
      return [preferences.summary(pair.rejected) for pair in pairs]

    known = {w for q in general.all_questions() for w in q.answer["wrong"]}
    self.assertContainsSubset(rejected(0.0), known)
    texts = rejected(0.25)
    share = np.mean([text not in known for text in texts])
    self.assertBetween(share, 0.2, 0.6)


if __name__ == "__main__":
  absltest.main()
