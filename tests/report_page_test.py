"""The report's page in a headless Chromium."""

import base64
import json
import pathlib
import re
import statistics
import tempfile
import unittest

import pytest
from absl.testing import absltest, parameterized

from r1jax import report
from tests import browser
from tests.workdirs import HOSTILE, card, make, row, run

READY = "!/^Reading/.test(document.getElementById('status').textContent)"
SET = """(name, value) => {
  const label = [...document.querySelectorAll('form label')]
    .find((each) => [...each.childNodes].some((n) => n.data === name));
  const control = label?.querySelector('input, select') ??
    document.querySelector(`[aria-label="${name}"]`);
  const start = performance.now();
  if (typeof value === 'boolean') control.checked = value;
  else control.value = value;
  control.dispatchEvent(new Event('input', { bubbles: true }));
  document.body.offsetHeight;  // Lays out what was changed.
  return performance.now() - start;
}"""
PAIRS = (
  "Before and after: questions of more than one round or run, side by side"
)


@pytest.mark.slow
@unittest.skipUnless(browser.PATH, "There is no chromium on this machine.")
class BrowserTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.page = browser.Page()
    self.addCleanup(self.page.close)

  def open(self, *workdirs, path=None):
    path = path or str(self.root / "report.html")
    report.write_all(workdirs, path)
    self.page.open(path)
    self.page.wait_for(READY)

  def set(self, name, value):
    """Sets a control of the form; milliseconds until the page shows it."""
    return self.page.evaluate(
      f"({SET})({json.dumps(name)}, {json.dumps(value)})"
    )

  def status(self):
    return self.page.evaluate("document.getElementById('status').textContent")

  def texts(self, selector):
    return self.page.evaluate(
      f"[...document.querySelectorAll({json.dumps(selector)})]"
      ".map((each) => each.textContent)"
    )

  def told(self, *methods):
    self.page.evaluate("1")  # What happened before was told before.
    return [e for e in self.page.events if e["method"] in methods]

  def requests(self):
    sent = self.told("Network.requestWillBeSent")
    return [e["params"]["request"]["url"] for e in sent]

  def test_opens_from_disk_and_asks_for_nothing(self):
    workdirs = [run(self.root / "a"), run(self.root / "b", 1)]
    self.open(*workdirs)
    self.assertEqual(self.texts("h1"), ["2 runs"])
    self.assertEqual(self.status(), "16 of 16 rollouts.")
    self.assertEqual(self.texts(".stages tbody small:nth-child(1)")[0], "start")
    self.assertLen(self.texts("figure"), 1)
    self.assertEqual(
      self.requests(), [f"file://{self.root.resolve()}/report.html"]
    )
    faults = self.told("Runtime.exceptionThrown", "Log.entryAdded")
    self.assertEqual(faults, [])

  def test_nothing_can_leave_or_become_markup(self):
    self.open(run(self.root / "a"))
    before = self.requests()
    sent = self.page.evaluate(
      """(async () => {
        const image = new Image();
        image.src = 'http://x.test/image';
        document.body.append(image);
        const tag = document.createElement('link');
        Object.assign(tag, { rel: 'stylesheet', href: 'http://x.test/style' });
        document.head.append(tag);
        let sent = 'sent';
        await fetch('http://x.test/fetch').catch(() => { sent = 'refused'; });
        return sent;
      })()"""
    )
    self.assertEqual(sent, "refused")
    for code in ("x.innerHTML = '<b>'", "x.src = 'data:,1'", "x.text = '1'"):
      verdict = self.page.evaluate(
        "(() => { const x = document.createElement('script');"
        f"try {{ {code}; return 'allowed'; }} catch (e) {{ return e.name; }}"
        "})()"
      )
      self.assertEqual(verdict, "TypeError", code)
    responses = self.told("Network.responseReceived")
    self.assertLen(responses, 1)  # The file itself.
    blocked = [
      e["params"].get("blockedReason")
      for e in self.told("Network.loadingFailed")
    ]
    tried = self.requests()[len(before) :]
    self.assertEqual(blocked, ["csp"] * len(tried))

  @parameterized.parameters(*HOSTILE)
  def test_hostile_text_stays_text(self, text):
    hostile = row(1, text, response=f"<think>{text}</think>{text}", prompt=text)
    hostile["rewards"] = {text: {"value": 0.0, "reason": text, "status": text}}
    workdir = make(
      self.root / "a",
      card={"config": {"name": text}, text: text},
      metrics=[{"round": 0, text: 1.0}],
      eval=[{"round": 0, "suite": text, text: 1.0}],
      rollouts=[row(), hostile],
    )
    self.open(workdir)
    self.set("Sort", "round -1")
    kinds = "script, img, style, title, iframe, object, link, b"
    self.assertEqual(
      self.page.evaluate(
        f"[...document.querySelectorAll({kinds!r})].map((x) => x.localName)"
      ),
      ["title", "style", "script"],
    )
    self.assertIsNone(self.page.evaluate("window.hit"))
    self.assertEqual(self.told("Runtime.exceptionThrown", "Log.entryAdded"), [])
    self.assertLen(self.requests(), 1)
    # Each mark stands for one character; the rest is there as it was.
    answer = self.texts("article pre")[2]
    marked = "".join(
      f"U+{ord(c):04X}"
      if re.match("[\0-\x08\x0b-\x1f\u2028-\u202e\u2066\ufeff\ud800-\udfff]", c)
      else c
      for c in text
    )
    self.assertEqual(answer, marked)

  def test_filters(self):
    first = [row(0, f"q{i}", tokens=i, reward=i / 10) for i in range(10)]
    second = [row(1, f"p{i}", finish_reason="length") for i in range(5)]
    second[0]["response"] = "<think>yes 是的</think>Needle"
    second[1]["rewards"]["accuracy"] |= {"status": "timeout", "value": 0}
    second[2]["rewards"] = {}
    workdirs = [
      make(self.root / "a", rollouts=first),
      make(self.root / "b", rollouts=second),
    ]
    self.open(*workdirs)
    for name, value, wanted in (
      ("Text", "nEEDLE", 1),
      ("Text", "right", 14),
      ("Question id", "Q1", 1),
      ("Languages", "mixed", 1),
      ("Languages", "one", 14),
      ("Finish", "length", 5),
      ("Run", "b", 5),
      ("least round", "1", 5),
      ("most round", "0", 10),
      ("least reward", "0.75", 7),
      ("most tokens", "4", 5),
      ("most reward: accuracy", "0.5", 1),
      ("status of accuracy", "ok", 13),
      ("status of accuracy", "not ok", 1),
      ("status of accuracy", "timeout", 1),
      ("status of accuracy", "failed", 0),
    ):
      self.set(name, value)
      self.assertEqual(self.status(), f"{wanted} of 15 rollouts.", name)
      self.set(name, "")
    self.set("Run", "a")
    self.set("least tokens", "8")
    self.assertEqual(self.status(), "2 of 15 rollouts.")
    self.page.evaluate("document.querySelector('button[type=reset]').click()")
    self.page.wait_for(
      "/^15 of/.test(document.getElementById('status').textContent)"
    )
    self.set("Sort", "tokens -1")
    tokens = self.texts(".row .tokens")
    self.assertEqual(tokens[:5], ["10 tokens"] * 5)
    self.assertEqual(tokens[5:8], ["9 tokens", "8 tokens", "7 tokens"])
    self.set("Text", "nothing has this")
    self.assertEqual(self.texts(".pane"), ["Nothing matches the filter."])

  def test_reading_by_keyboard(self):
    rows = [
      row(r, f"q{q}", s) for r in range(40) for q in (0, 1) for s in (0, 1)
    ]
    self.open(make(self.root / "a", rollouts=rows))
    self.page.evaluate("document.querySelector('.list').focus()")
    chosen = """(() => {
      const id = document.activeElement.getAttribute('aria-activedescendant');
      const row = document.getElementById(id);
      return [row.getAttribute('aria-selected'), row.ariaPosInSet];
    })()"""
    for key, wanted in (
      ("ArrowDown", "2"),
      ("End", "160"),
      ("ArrowUp", "159"),
      ("Home", "1"),
    ):
      self.page.press(key)
      self.assertEqual(self.page.evaluate(chosen), ["true", wanted])
    self.page.press("PageDown")
    self.assertGreater(int(self.page.evaluate(chosen)[1]), 10)
    # The list holds what is in sight, not all.
    self.assertLess(len(self.texts(".row")), 60)

  def test_before_and_after(self):
    rows = [
      row(r, q, s)
      for r, q in ((0, "x"), (0, "once"), (3, "x"), (7, "x"))
      for s in (0, 1)
    ]
    self.open(make(self.root / "a", rollouts=rows))
    self.assertEqual(
      self.texts("article pre")[1:], ["<think>r0 s0</think>", "done"]
    )
    self.set(PAIRS, True)
    self.assertEqual(self.status(), "6 of 8 rollouts.")
    thoughts = "article section:nth-of-type(2) pre"
    self.assertEqual(
      self.texts(thoughts), ["<think>r0 s0</think>", "<think>r7 s0</think>"]
    )
    self.page.evaluate("document.querySelectorAll('.row')[3].click()")
    self.assertEqual(
      self.texts(thoughts), ["<think>r0 s1</think>", "<think>r3 s1</think>"]
    )
    self.page.evaluate(
      "(() => { const s = document.querySelectorAll('article')[1]"
      ".querySelector('[aria-label=Round]'); s.value = 2;"
      "s.dispatchEvent(new Event('change')); })()"
    )
    self.assertEqual(self.texts(thoughts)[1], "<think>r7 s1</think>")
    self.assertEqual(
      self.page.evaluate("document.activeElement.ariaLabel"), "Round"
    )

  def test_thoughts_and_answer_apart(self):
    rows = [
      row(0, response="<think>a</think><think>b</think> c"),
      row(0, sample=1, response="<think>never ends"),
      row(0, sample=2, response="no thoughts"),
    ]
    self.open(make(self.root / "a", rollouts=rows))
    wanted = (
      ("<think>a</think><think>b</think>", " c"),
      ("<think>never ends", "None: the thoughts do not end."),
      ("None.", "no thoughts"),
    )
    for i, (thoughts, answer) in enumerate(wanted):
      self.page.evaluate(f"document.getElementById('row{i}').click()")
      found = self.texts("article section > :nth-child(2)")
      self.assertEqual(found[1:3], [thoughts, answer])
    prefilled = {"config": {"template": "miniature-think"}}
    rows = [row(response="the prompt opened it")]
    self.open(make(self.root / "b", card=prefilled, rollouts=rows))
    found = self.texts("article section > :nth-child(2)")
    self.assertEqual(found[1], "the prompt opened it")

  @parameterized.parameters(
    ({"card": card()}, "There are no rollouts."),
    ({"metrics": [{"round": 0, "x": None}]}, "There are no rollouts."),
    ({"rollouts": json.dumps(row()) + '\n{"rou'}, "1 of 1 rollouts."),
    (
      {"eval": [{"round": -1, "suite": "s", "pass@1": None}]},
      "There are no rollouts.",
    ),
    (
      {
        "rollouts": [
          row(
            rewards={"a": {}},
            reward=None,
            tokens="?",
            prompt=1,
            finish_reason=None,
            sample=None,
            advantage=None,
          )
        ]
      },
      "1 of 1 rollouts.",
    ),
    (
      {
        "metrics": [
          {"round": 0, "x": 0.0, "y": -3, "z": 5e-9, "w": 1e30},
          {
            "round": 1,
            "x": 5e-324,
            "y": -3.0000000000000004,
            "z": 9e99,
            "w": 1.0,
          },
        ]
      },
      "There are no rollouts.",
    ),
  )
  def test_partial_runs_open(self, files, status):
    self.open(make(self.root / "a", **files))
    self.assertEqual(self.status(), status)
    self.assertGreater(len(self.texts("#notes li")), 0)
    self.assertEqual(self.told("Runtime.exceptionThrown", "Log.entryAdded"), [])
    self.assertNotIn("NaN", self.page.evaluate("document.body.outerHTML"))

  def test_all_controls_have_names(self):
    self.open(run(self.root / "a"), run(self.root / "b", 1))
    self.page.evaluate(
      "document.querySelectorAll('details').forEach((d) => { d.open = true; })"
    )
    self.page.call("Accessibility.enable")
    tree = self.page.call("Accessibility.getFullAXTree")["nodes"]
    roles = (
      "searchbox textbox spinbutton combobox checkbox button listbox image"
    )
    seen = set()
    for node in tree:
      role = node.get("role", {}).get("value")
      if role in (*roles.split(), "option", "form", "article", "img"):
        seen.add(role)
        self.assertTrue(node.get("name", {}).get("value"), node)
    self.assertContainsSubset(
      {"searchbox", "spinbutton", "combobox", "checkbox", "button", "listbox"},
      seen,
    )

  def test_light_dark_and_print(self):
    self.open(run(self.root / "a"))
    color = "getComputedStyle(document.body).backgroundColor"
    found = []
    for scheme in ("light", "dark"):
      feature = {"name": "prefers-color-scheme", "value": scheme}
      self.page.call("Emulation.setEmulatedMedia", features=[feature])
      found.append(self.page.evaluate(color))
    self.assertEqual(found, ["rgb(251, 251, 250)", "rgb(21, 24, 28)"])
    self.page.call("Emulation.setEmulatedMedia", media="print")
    shown = (
      "[...document.querySelectorAll('form, .list, article, figure')]"
      ".filter((x) => x.checkVisibility()).map((x) => x.localName)"
    )
    self.assertEqual(self.page.evaluate(shown), ["figure", "article"])
    pdf = base64.b64decode(self.page.call("Page.printToPDF")["data"])
    self.assertStartsWith(pdf, b"%PDF")

  def test_fifty_thousand_rollouts(self):
    words = [f"w{i:x}" for i in range(997)]
    lines = (
      json.dumps(
        row(
          i // 500,
          f"q{i % 4001}",
          i % 8,
          tokens=i * 7919 % 193,
          response=f"<think>{' '.join(words[i % 800 : i % 800 + 80])} 字 {i}",
        )
      )
      + "\n"
      for i in range(50_000)
    )
    self.open(make(self.root / "a", rollouts="".join(lines)))
    self.assertEqual(self.status(), "50000 of 50000 rollouts.")
    took = [
      self.set("Text", "49999"),
      self.set("Text", "W1F"),
      self.set("Text", ""),
      self.set("Sort", "tokens -1"),
      self.set("least round", "50"),
      self.set(PAIRS, True),
    ]
    self.assertEqual(self.status(), "25000 of 50000 rollouts.")
    # 10 to 60 ms on two idle cores; the bound is what feels immediate.
    self.assertLess(statistics.median(took), 200, took)
    self.assertLess(len(self.texts(".row")), 60)


if __name__ == "__main__":
  absltest.main()
