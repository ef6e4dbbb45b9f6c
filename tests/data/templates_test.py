import json
import os
import pathlib
from unittest import mock

from absl.testing import absltest, parameterized

from r1jax.data import countdown, miniature, templates, tokenizer
from r1jax.records import Question

GOLDEN = pathlib.Path(__file__).parent / "golden"
QUESTION = countdown.question((3, 5, 8), 6)
RESPONSE = miniature.layout("3 + 5 = 8 - 8 = 0 no\nguess", "8 + 3 - 5")


class TemplatesTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.tokenizer = tokenizer.load()

  @parameterized.parameters(*templates.TEMPLATES)
  def test_golden(self, name):
    prompt_ids, response_ids = templates.document_ids(
      name, QUESTION, RESPONSE, self.tokenizer
    )
    made = {
      "text": templates.render(name, QUESTION),
      "prompt_ids": prompt_ids,
      "response_ids": response_ids,
    }
    path = GOLDEN / f"{name}.json"
    if os.environ.get("UPDATE_GOLDEN") == "1":
      path.write_text(json.dumps(made, ensure_ascii=False) + "\n", "utf-8")
    self.assertEqual(
      made,
      json.loads(path.read_text("utf-8")),
      "If the change is meant: UPDATE_GOLDEN=1 python -m pytest "
      "tests/data/templates_test.py",
    )

  @parameterized.parameters(*templates.TEMPLATES)
  def test_one_bos_no_eos_in_a_prompt(self, name):
    t = self.tokenizer
    ids = templates.prompt_ids(name, QUESTION, t)
    self.assertEqual(ids[0], t.bos_id)
    self.assertEqual(ids.count(t.bos_id), 1)
    self.assertNotIn(t.eos_id, ids)
    self.assertEqual(t.decode(ids), templates.render(name, QUESTION))

  @parameterized.parameters(*templates.TEMPLATES)
  def test_one_eos_ends_a_response(self, name):
    t = self.tokenizer
    prompt_ids, ids = templates.document_ids(name, QUESTION, RESPONSE, t)
    self.assertEqual(prompt_ids, templates.prompt_ids(name, QUESTION, t))
    self.assertEqual(ids[-1], t.eos_id)
    self.assertEqual(ids.count(t.eos_id), 1)
    self.assertNotIn(t.bos_id, ids)

  @parameterized.parameters(*templates.TEMPLATES)
  def test_prefilled_think_stands_once(self, name):
    template = templates.get(name)
    self.assertEqual(
      template.text.endswith("<think>"), template.think_prefilled
    )
    _, ids = templates.document_ids(name, QUESTION, RESPONSE, self.tokenizer)
    text = self.tokenizer.decode(ids)
    prefix = "<think>" if template.think_prefilled else ""
    self.assertEqual(prefix + text, RESPONSE)

  def test_miniature_prompt_is_short(self):
    ids = templates.prompt_ids("miniature", QUESTION, self.tokenizer)
    self.assertLen(ids, 9)

  def test_response_is_encoded_apart(self):
    # "n" + "o" would be one piece if both were encoded together.
    t = self.tokenizer
    with mock.patch.dict(
      templates.TEMPLATES, {"glued": templates.Template("{question}n")}
    ):
      prompt_ids, ids = templates.document_ids("glued", QUESTION, "o", t)
    self.assertEqual(t.piece(prompt_ids[-1]), "n")
    self.assertEqual([t.piece(i) for i in ids[:-1]], ["o"])

  def test_braces_of_a_question_stay(self):
    question = Question("q", "{x} {question} {}", 1, "none")
    self.assertEqual(
      templates.render("miniature", question), "{x} {question} {}\n"
    )

  def test_unknown_template(self):
    with self.assertRaisesRegex(ValueError, "template is 'r1-zer'. Known: .*"):
      templates.render("r1-zer", QUESTION)

  @parameterized.parameters("bos_id", "eos_id")
  def test_control_ids_of_the_text_are_refused(self, field):
    t = self.tokenizer
    id = getattr(t, field)
    broken = t._replace(encode=lambda text: [id, *t.encode(text)])
    with self.assertRaisesRegex(ValueError, "'countdown:3,5,8:6': the text"):
      templates.prompt_ids("miniature", QUESTION, broken)
    with self.assertRaisesRegex(ValueError, "'countdown:3,5,8:6': the text"):
      templates.document_ids("miniature", QUESTION, RESPONSE, broken)


class KindTest(parameterized.TestCase):
  NAMES = {"reasoning": "miniature", "safety": "r1-zero"}

  def ask(self, **meta):
    return Question("q", "why?", None, "none", meta=meta)

  def test_each_kind_has_its_own(self):
    self.assertEqual(templates.render(self.NAMES, self.ask()), "why?\n")
    general = self.ask(prompt_set="safety")
    self.assertEndsWith(
      templates.render(self.NAMES, general), "User: why?. Assistant:"
    )
    self.assertEqual(templates.render("miniature", general), "why?\n")

  def test_a_kind_without_one_is_named(self):
    with self.assertRaisesRegex(ValueError, "is 'helpful'. Known: reasoning"):
      templates.render(self.NAMES, self.ask(prompt_set="helpful"))


if __name__ == "__main__":
  absltest.main()
