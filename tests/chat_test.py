import io
import os
import pathlib
import pty
import signal
import subprocess
import sys
import tempfile
import time
from unittest import mock

import jax
import pytest
import rich.console
from absl.testing import absltest, parameterized

from r1jax import any_model, chat, experiment, policy
from r1jax.data import tokenizer
from r1jax.models import store
from r1jax.sampling import engine
from tests import small
from tests.data import hf_folder

ROOT = pathlib.Path(__file__).resolve().parent.parent
DIM, OFF = "\x1b[2m", "\x1b[0m"


class Fake:
  """A model that says what it is told to, and keeps its prompts."""

  def __init__(self, test, answers, *, template="chat", most=1000, chunk=3):
    folder = test.enterContext(tempfile.TemporaryDirectory())
    self.tokenizer = tokenizer.load(
      hf_folder.write(pathlib.Path(folder), "qwen")
    )
    self.answers, self.prompts, self.chunk = answers, [], chunk
    self.talk = chat.Talk(self.stream, self.tokenizer, template, most)

  def stream(self, prompt, turn):
    self.prompts.append("".join(self.tokenizer.piece(i) for i in prompt))
    ids = self.tokenizer.encode(self.answers[turn - 1])
    ids += [self.tokenizer.eos_id]
    for i in range(0, len(ids), self.chunk):
      yield ids[i : i + self.chunk]


def printed(talk, lines, *, terminal=False):
  file = io.StringIO()
  color = "standard" if terminal else None
  console = rich.console.Console(
    file=file, force_terminal=terminal, color_system=color, width=20
  )
  chat.run(talk, console, iter(lines))
  return file.getvalue()


class ConversationTest(parameterized.TestCase):
  def test_earlier_turns_have_no_thoughts(self):
    fake = Fake(self, ["<think>hm\n</think>\n\nfour", "six"])
    self.assertEqual(
      printed(fake.talk, ["2+2\n", "\n", "3+3\n"]),
      "<think>hm\n</think>\n\nfour\nsix\n",
    )
    self.assertEqual(
      fake.prompts[1].replace("Ċ", "\n"),
      "<|im_start|>user\n2+2<|im_end|>\n<|im_start|>assistant\nfour<|im_end|>"
      "\n<|im_start|>user\n3+3<|im_end|>\n<|im_start|>assistant\n",
    )

  def test_forced_thoughts_are_shown_and_dropped(self):
    fake = Fake(self, ["hm</think>four", "never ends", "x"])
    fake.talk = fake.talk._replace(template="chat-think")
    out = printed(fake.talk, ["2+2", "a", "b"])
    self.assertStartsWith(out, "<think>\nhm</think>four\n<think>\nnever ends\n")
    self.assertEndsWith(fake.prompts[0], "assistantĊ<think>Ċ")
    self.assertIn("four<|im_end|>", fake.prompts[2])
    self.assertNotIn("hm", fake.prompts[2])
    self.assertNotIn("never", fake.prompts[2])

  def test_reset_and_exit(self):
    fake = Fake(self, ["a", "b", "c"])
    printed(fake.talk, ["first", "/reset", "second", "/exit", "third"])
    self.assertLen(fake.prompts, 2)
    self.assertNotIn("first", fake.prompts[1])

  def test_unknown_command(self):
    fake = Fake(self, [])
    self.assertEqual(
      printed(fake.talk, ["/help"]),
      "/help is unknown. Known: /reset, /exit.\n",
    )

  def test_the_oldest_turns_are_dropped_where_they_do_not_fit(self):
    fake = Fake(self, ["a", "b", "c"], most=100)
    out = printed(fake.talk, ["x" * 40, "y" * 40, "z"])
    self.assertEqual(out.count("(The oldest turns"), 1)
    self.assertNotIn("x" * 40, fake.prompts[1])
    self.assertIn("y" * 40, fake.prompts[2])

  def test_a_message_that_does_not_fit(self):
    fake = Fake(self, [], most=30)
    out = printed(fake.talk, ["x" * 40])
    self.assertRegex(out, "r1jax: the message takes .* --max_prompt_tokens=30.")
    self.assertEqual(fake.prompts, [])

  def test_control_tokens_are_refused_and_the_talk_goes_on(self):
    fake = Fake(self, ["fine"])
    out = printed(fake.talk, ["<|im_end|>", "hello"])
    self.assertStartsWith(out, "r1jax: a message of the user holds the control")
    self.assertEndsWith(out, "\nfine\n")
    self.assertNotIn("<|im_end|><|im_end|>", fake.prompts[0])

  def test_plain_templates_have_no_turns(self):
    fake = Fake(self, ["a", "b"], template="miniature")
    printed(fake.talk, ["first", "second"])
    self.assertEqual(fake.prompts, ["firstĊ", "secondĊ"])

  def test_ctrl_c_stops_an_answer(self):
    fake = Fake(self, ["one two three", "more"])
    whole = fake.stream

    def interrupted(prompt, turn):
      for i, chunk in enumerate(whole(prompt, turn)):
        if i == 2 and turn == 1:
          raise KeyboardInterrupt
        yield chunk

    out = printed(fake.talk._replace(stream=interrupted), ["count", "go on"])
    self.assertEqual(out, "one tw\n(stopped)\nmore\n")
    self.assertIn("oneĠtw<|im_end|>", fake.prompts[1])


class ShowTest(parameterized.TestCase):
  def test_thoughts_are_dim_in_a_terminal(self):
    for chunk in (1, 2, 7, 100):
      fake = Fake(self, ["<think>ab\n</think> four"], chunk=chunk)
      out = printed(fake.talk, ["2+2"], terminal=True)
      plain, dim, is_dim = "", "", False
      for part in out.replace(DIM, "\0D").replace(OFF, "\0O").split("\0"):
        is_dim = {"D": True, "O": False}.get(part[:1], is_dim)
        text = part[1:] if part[:1] in ("D", "O") else part
        plain, dim = plain + text * (not is_dim), dim + text * is_dim
      # rich leaves the ends of lines unstyled.
      self.assertEqual((dim, plain), ("<think>ab</think>", "\n four\n"))

  def test_half_a_character_waits(self):
    fake = Fake(self, ["a😀b"], chunk=1)
    console = mock.Mock(is_terminal=False)
    conversation = chat.Conversation(fake.talk)
    chat.show(console, chat.answer(fake.talk, conversation, "x"))
    parts = [str(call.args[0]) for call in console.print.call_args_list[:-1]]
    self.assertEqual("".join(parts), "a😀b")
    self.assertGreater(len([part for part in parts if part]), 2)

  def test_a_model_does_not_steer_the_terminal(self):
    fake = Fake(self, ["a\x1b[2Jb"])
    self.assertNotIn("\x1b[2J", printed(fake.talk, ["x"], terminal=True))
    self.assertIn("\x1b[2J", printed(fake.talk, ["x"]))

  @parameterized.parameters(
    ("<think>a</think>b", 16), ("<think>a", 8), ("a</think>b", 0), ("b", 0)
  )
  def test_where_thoughts_end(self, text, end):
    self.assertEqual(chat.thoughts_end(text), end)


class StreamTest(parameterized.TestCase):
  SETTINGS = dict(temperature=1.0, top_p=0.9)

  @pytest.mark.slow
  def test_is_what_the_sampler_draws(self):
    config = small.gqa(vocab_size=512, num_layers=1, num_dense_layers=1)
    weights = small.weights(config)
    t = tokenizer.load()
    stream = chat.make_stream(
      config,
      *weights,
      t,
      **self.SETTINGS,
      max_prompt_tokens=200,
      max_tokens=18,
      seed=5,
    )
    programs = policy.make(config, temperature=1.0).programs(
      eos_id=t.eos_id,
      chunk_tokens=50,
      top_p=0.9,
      slots=2,
      prefill_rows=1,
      max_prompt_tokens=200,
      max_response_tokens=18,
    )
    prompt = [i % 500 + 4 for i in range(70)]
    (sample,), _ = engine.sample(
      programs,
      *weights,
      jax.random.fold_in(jax.random.key(5), 2),
      {0: prompt},
      [engine.Request(0, 0)],
    )
    chunks = list(stream(prompt, 2))
    drawn = [token for chunk in chunks for token in chunk]
    self.assertEqual(drawn, sample.tokens_T.tolist())
    self.assertLessEqual(max(map(len, chunks)), chat.CHUNK_TOKENS)

  def test_widths_are_few(self):
    widths = [chat._width(n, 300) for n in (1, 64, 65, 200, 300)]
    self.assertEqual(widths, [64, 64, 128, 256, 300])
    self.assertEqual(chat._width(5, 20), 20)


class CommandTest(parameterized.TestCase):
  def test_template(self):
    config = small.gqa()
    opened = any_model.Opened(config, {}, {}, "bundled", None, None)
    t = tokenizer.load()
    self.assertEqual(chat.default_template(opened, t), "miniature")
    trained = opened._replace(template="r1-zero")
    self.assertEqual(chat.default_template(trained, t), "r1-zero")
    for template, name in (
      (hf_folder.DEEPSEEK, "chat"),
      (hf_folder.THINKING, "chat-think"),
      ("", "r1-zero"),
    ):
      folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
      made = hf_folder.write(folder, "deepseek", template=template)
      t = tokenizer.load(made)
      self.assertEqual(chat.default_template(opened, t), name)

  @parameterized.parameters(
    ("--temperature=-1", "--temperature is -1.0; 0 or more."),
    ("--top_p=0", "--top_p is 0.0; above 0, at most 1."),
    ("--max_tokens=0", "--max_tokens is 0; 1 or more."),
    ("--template=chatt", "template is 'chatt'. Known: "),
    ("--seed=1", "nowhere holds no model. Name a workdir"),
  )
  def test_mistakes_are_one_line(self, flag, message):
    with self.assertRaises(SystemExit) as caught:
      chat.main(["nowhere", flag])
    self.assertStartsWith(caught.exception.code, f"r1jax: {message}")
    self.assertNotIn("\n", caught.exception.code)


@pytest.mark.slow
class TerminalTest(parameterized.TestCase):
  """The bundled base, as a user would talk to it."""

  def test_lines_of_a_pipe(self):
    path = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()), "a")
    path = path.with_suffix(".safetensors")
    config = small.gqa(vocab_size=512)
    store.save(path, config, *small.weights(config))
    out = io.StringIO()
    arguments = ["--tokenizer=bundled", "--max_tokens=6", "--temperature=0"]
    with (
      mock.patch.object(sys, "stdin", io.StringIO("3 5\n/exit\n")),
      mock.patch.object(sys, "stdout", out),
    ):
      chat.main([str(path), *arguments])
    self.assertTrue(out.getvalue().strip())
    self.assertNotIn("\x1b", out.getvalue())
    self.assertNotIn(">", out.getvalue().splitlines()[0][:2])

  def test_a_pipe_and_the_same_again(self):
    command = [sys.executable, "-m", "r1jax.chat", str(experiment.BUNDLED)]
    runs = [
      subprocess.run(
        [*command, "--max_tokens=60", f"--seed={seed}", "--temperature=1"],
        input="3 5 8 -> 6\n",
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
        check=True,
      )
      for seed in (0, 0, 1)
    ]
    first, second, third = (run.stdout for run in runs)
    self.assertIn("<think>", first)
    self.assertEqual(first, second)
    self.assertNotEqual(first, third)

  def test_a_terminal(self):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
      [
        *(sys.executable, "-m", "r1jax.chat", str(experiment.BUNDLED)),
        "--max_tokens=2000",
      ],
      stdin=theirs,
      stdout=theirs,
      stderr=theirs,
      cwd=ROOT,
      env={**os.environ, "TERM": "xterm"},
      start_new_session=True,
    )
    self.addCleanup(process.kill)
    os.close(theirs)

    def until(text):
      seen, end = "", time.monotonic() + 200
      while text not in seen:
        self.assertLess(time.monotonic(), end, f"no {text!r} in {seen!r}")
        seen += os.read(ours, 4096).decode(errors="replace")
      return seen

    until("> ")
    os.write(ours, b"3 5 8 -> 6\n")
    until(f"{DIM}<think>")
    process.send_signal(signal.SIGINT)
    until("> ")  # Stopped, or at its end: either way the next turn.
    os.write(ours, b"\x04")
    self.assertEqual(process.wait(60), 0)


if __name__ == "__main__":
  absltest.main()
