import time

from absl.testing import absltest, parameterized

from r1jax.rewards import prose

HOSTILE = (
  *("$", "`", "``` `", "```", "~~~", "\\[", "\\(", "\\begin{a}", "\\end{a}"),
  *("<a ", "<a b=", "a=", "a.", "a/", "a'", "@", "&", "_", "*", "{", "\\a"),
  *("    a=", "    for ", "https://", "1. ", "> ", "()", "\u0301", "\u200b"),
  *("a\u200b", "p\u0430", "\u4e0d", "a, ", " ", "\t"),
)


class ProseTest(parameterized.TestCase):
  def words(self, text):
    return " ".join(prose.prose(text).split())

  @parameterized.named_parameters(
    ("words", "Hello, my friend.", "Hello, my friend."),
    ("marks of style", "**so** _it_ is", "**so** _it_ is"),
    ("apostrophes and hyphens", "don't well-known", "don't well-known"),
    ("one of two", "and/or", "and/or"),
    ("a clause in brackets", "so (it is)", "so (it is)"),
    # Code.
    ("fence", "so\n```py\nfoo bar\n```\nit is", "so it is"),
    ("fence of tildes", "so\n~~~\nfoo bar\n~~~\nit is", "so it is"),
    ("longer fence", "so\n````\n```\nfoo\n```\n````\nit is", "so it is"),
    ("fence in a list", "- so\n  ```\n  foo\n  ```\n- it", "- so - it"),
    ("fence that nothing closes", "so\n```\nfoo bar\nbaz", "so"),
    ("three ticks in a line", "so ```ab it", "so ```ab it"),
    ("ticks", "so `foo bar` it", "so it"),
    ("two ticks", "so ``foo `bar` baz`` it", "so it"),
    ("a lone tick", "so `it is", "so `it is"),
    ("ticks over paragraphs", "so ` it\n\nis ` on", "so ` it is ` on"),
    ("assignment", "so:\n    total = foo\nit", "so: it"),
    ("loop", "so:\n    for foo in bar:\n        baz(foo)\nit", "so: it"),
    ("indented prose", "so:\n    and then it is", "so: and then it is"),
    # Formulas.
    ("dollars", "so $foo + x^2$ it", "so it"),
    ("two dollars", "so $$foo$$ it", "so it"),
    ("brackets", r"so \(foo\) it \[bar\] is", "so it is"),
    ("matrix", r"so \begin{pmatrix} foo \\[2pt] b \end{pmatrix} it", "so it"),
    (
      "environment in another",
      r"so \begin{align} \begin{cases} foo \end{cases} bar \end{align} it",
      "so it",
    ),
    ("environment that nothing closes", r"so \begin{align} it is", "so it is"),
    ("no brackets", r"so \frac{foo}{bar} \sqrt{baz} it", "so it"),
    ("prices", "it is $5 and so it is $10 now", "it is and so it is now"),
    ("text in a formula", r"so $\text{area} = 2$ it", "so it"),
    (
      "a sentence in dollars",
      "so $foo bar baz qux$ it",
      "so foo bar baz qux it",
    ),
    (
      "a Chinese sentence in dollars",
      "so $\u6211\u4eec\u9700\u8981\u4ece\u4e94\u4e2a\u7403$ it",
      "so \u6211\u4eec\u9700\u8981\u4ece\u4e94\u4e2a\u7403 it",
    ),
    ("names of variables", "so foo = 5 and bar + baz it", "so and it"),
    ("functions", "so sin x, log y, gcd it", "so x, y, it"),
    ("units", "so 5 km, 3 kg it", "so , it"),
    ("points", "so ABC, AB it", "so , it"),
    ("digits", "so 3cm x1 10th it", "so it"),
    # Addresses and names of programs.
    ("address", "so https://ab.cd/ef?g=h it", "so it"),
    ("address in Chinese", "\u770bhttps://ab.cd/e\u3002", "\u770b \u3002"),
    ("mail", "so foo@bar.com it", "so it"),
    ("path", "so /usr/local/bin foo/bar.py C:\\foo it", "so it"),
    ("identifiers", "so foo_bar fooBar foo.bar foo::bar it", "so it"),
    ("call", "so print(foo) it", "so ) it"),
    ("tag", '<div class="foo">so</div> <b>it</b>', "so it"),
    ("entity", "so&nbsp;it", "so it"),
    ("link", "[so](http://foo.bar/baz) it", "[so] ( it"),
    # What cannot be seen splits nothing and hides nothing.
    ("zero width", "s\u200bo it\u00ad is\ufeff", "so it is"),
    ("our tags", "<think>so</think><answer>it</answer>", "so it"),
  )
  def test_prose(self, text, left):
    self.assertEqual(self.words(text), left)

  @parameterized.parameters(*HOSTILE)
  def test_long_texts_take_linear_time(self, piece):
    start = time.perf_counter()
    for end in ("", " ", "\n"):
      prose.prose((piece + end) * (50_000 // len(piece + end)))
    self.assertLess(time.perf_counter() - start, 2.0)


if __name__ == "__main__":
  absltest.main()
