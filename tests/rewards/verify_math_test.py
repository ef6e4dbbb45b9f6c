from absl.testing import absltest, parameterized

from r1jax.records import Question
from r1jax.rewards import extract, verify_math

# Class to (gold, answers that are right, answers that are wrong).
NUMBERS = {
  "whole": ("5", ["5.0", "05", "$5$", r"\(5\)", "+5", "2+3=5", "five"],
            ["-5", "56", "5,6", "5 or 6", r"\pm5", "not 5", "5 6", "5x"]),
  "fraction": (r"-\frac12",
               [r"\frac{-1}{2}", r"\frac{1}{-2}", "-0.5", r"-\tfrac{2}{4}"],
               [r"\frac{-1}{-2}", "1/2", "-2", "-0.49999999999999999999"]),
  "nested fraction": (r"\frac{1}{\frac23}", ["3/2", "1.5", r"1\frac12"],
                      ["2/3", "1/6"]),
  "mixed": (r"-3\frac12", ["-7/2", "-3.5", "-3 1/2"], ["-2.5", "-3/2"]),
  "repeating": ("1/7", [r"0.\overline{142857}"],
                ["0.142857", "0.142857...", "0.1428571428571428571"]),
  "radical": (r"2\sqrt{3}", ["2*sqrt(3)", r"\sqrt{12}", r"\frac{6}{\sqrt3}",
                             r"2\sqrt3 \approx 3.46"],
              ["3.46", r"\sqrt6", r"\approx 2\sqrt3", r"3\sqrt2"]),
  "cube root": (r"\sqrt[3]{-8}", ["-2"], ["2", r"\sqrt[3]{8}", r"\sqrt{-8}"]),
  "pi": (r"\pi", ["π", r"\pi \approx 3.14", r"\frac{2\pi}{2}"],
         ["3.14", "22/7", "3.14159265358979323846", r"3.14\approx\pi"]),
  "logarithm": (r"\log_2 3", [r"\frac{\ln 3}{\ln 2}", r"\frac12\log_2 9"],
                [r"\log_3 2", "1.585", r"\log 3"]),
  "factorial": ("5!", ["120", "5*4!"], ["5", "119", "24"]),
  "binomial": (r"\binom52", ["10", r"{5\choose 2}"], ["20", "5/2"]),
  "power": ("-2^2", ["-4"], ["4", "(-2)^2"]),
  "scientific": (r"1.5\times10^{3}", ["1500", "1.5e3", "1.5 x 10^3"],
                 ["15", "150", r"1.5\times10^{-3}"]),
  "huge": ("10^{1000000}", ["100^{500000}"],
           ["10^{1000001}", "10^{1000000}+1"]),
  "thousands": ("1,000,000", ["1000000", r"1{,}000{,}000", r"1\,000\,000"],
                ["1,00,000", "1, 000, 000", "1000001"]),
  "complex": ("1+2i", ["2i+1", r"i(2-i)"], ["1-2i", "(1,2)", "2+i"]),
  "no value": ("0", [r"0 \cdot 7"], [r"\frac00", "1/0", "0^0"]),
  "infinite": (r"\infty", ["∞"], [r"-\infty", "10^{9999}"]),
}  # fmt: skip
QUANTITIES = {
  "percent": (r"50\%", ["50%", "50 percent", "50", "0.5", "1/2"],
              ["0.50%", r"500\%", "5000", "0.005"]),
  "no percent": ("0.5", [r"\frac12", r"50\%"],
                 ["50", r"0.5\%", r"0.5\% or 50"]),
  "percent of the answer": ("28", [r"28\%"], [r"0.28\%"]),
  "unit": (r"12\text{ cm}", ["12", "12 cm", r"12\,\mathrm{cm}"],
           ["12 in", "12 cm^2", "0.12 m", "13 cm"]),
  "area": ("5 cm^2", [r"5\text{ cm}^2", "5 square centimeters"],
           ["25", r"5\text{ cm}^3"]),
  "speed": (r"60\text{ km/h}", [r"60\ \text{km}\,\text{h}^{-1}", "60"],
            [r"60\text{ m/s}", "60 mph"]),
  "currency": ("$5", [r"\$5.00", "5 dollars", "5"], ["$5.01", "€5", "5 cents"]),
  "degrees": (r"90^\circ", ["90", "90°", "90 degrees"], [r"\frac{\pi}{2}"]),
  "ratio": ("2:3", ["4:6", r"\frac23"], ["3:2", "1:2:3", "0.6667"]),
}  # fmt: skip
GROUPS = {
  "list": ("1, 2", ["2, 1", "1 and 2", r"\{2,1\}", r"x=1 \text{ or } x=2"],
           ["1", "1, 2, 3", "1, 3", "(1,2)", "x=1, y=2", "1 2"]),
  "plus minus": (r"1\pm\sqrt2", [r"1-\sqrt2, 1+\sqrt2"], [r"1+\sqrt2"]),
  "tuple": ("(3,4)", ["(3, 4)", "x=3, y=4"],
            ["(4,3)", "[3,4]", "3,4", r"\{3,4\}", "(3,4,5)"]),
  "tuples": ("(1,2),(3,4)", [r"\{(3,4),(1,2)\}"], ["(1,2)", "(2,1),(4,3)"]),
  "interval": ("(1,3]", [r"1<x\le3", r"x\in(1,3]", "]1,3]"][:2],
               ["[1,3]", "(1,3)", "(1,4]", r"1\le x<3"]),
  "half line": ("x<3", [r"(-\infty,3)", "3>x", "2x<6"],
                [r"(-\infty,3]", "x>3", "3", "y<3"]),
  "union": (r"(-\infty,3)\cup(5,\infty)",
            [r"(5,\infty)\cup(-\infty,3)", r"x<3 \text{ or } x>5"],
            [r"(5,\infty)", r"(-\infty,3)\cup[5,\infty)"]),
  "hole": (r"x\ne5", [r"\mathbb{R}\setminus\{5\}",
                      r"(-\infty,5)\cup(5,\infty)"], ["x=5", "5"]),
  "matrix": (r"\begin{pmatrix}1/2&0\\0&1\end{pmatrix}",
             [r"\begin{bmatrix}\frac12&0\\0&1\end{bmatrix}",
              r"\frac12\begin{pmatrix}1&0\\0&2\end{pmatrix}"],
             [r"\begin{pmatrix}1/2&0\\0&2\end{pmatrix}",
              r"\begin{pmatrix}1/2&0&0&1\end{pmatrix}"]),
  "system": ("x=1, y=2", [r"\begin{cases}x=1\\y=2\end{cases}", "y=2, x=1"],
             ["x=2, y=1", "x=1"]),
  "empty": (r"\emptyset", [r"\{\}", r"\varnothing"], ["0", r"\{0\}"]),
}  # fmt: skip
FORMULAS = {
  "polynomial": ("x^2-1", ["(x-1)(x+1)", "f(x)=x^2-1", "-1+x*x"],
                 ["x^2+1", "x^2", "t^2-1", "f(t)=t^2-1"]),
  "quotient": ("x+1", [r"\frac{x^2-1}{x-1}"], ["x-1"]),
  "where real": (r"\sqrt{x^2}", ["|x|"], ["x", "-x"]),
  "trigonometry": (r"\sin 2x", [r"2\sin x\cos x"], [r"\sin^2 x", r"2\sin x"]),
  "constant": ("x^2+C", ["C+x^2"], ["x^2", "x^2+K"]),
  "value": ("x=5", ["5", "5=x", "x=2+3=5"], ["y=5", "x", "x=x", "x=6"]),
  "line": ("y=2x+1", ["2x-y=-1", "2x+1", "2x+1=y", "4x-2y+2=0"],
           ["2x-y=1", "y=2x-1", "y=y", "0=0"]),
  "circle": ("x^2+y^2=4", ["2x^2+2y^2=8", "x^2+y^2-4=0"],
             ["x^2+y^2=2", "0(x^2+y^2)=0", "0=0"]),
  "subscript": ("a_{12}", ["a_12"], ["a_1", "a_2", "a12"]),
  "remainder": (r"3\pmod 7", [r"10\pmod{7}", r"x\equiv3\pmod7"],
                [r"4\pmod7", r"3\pmod8"]),
}  # fmt: skip
WORDS = {
  "word": ("Monday", ["monday", r"\text{Monday}.", "**Monday**"],
           ["Tuesday", "Monday or Tuesday", "Mon", "not Monday"]),
  "yes": ("yes", ["Yes."], ["no", "yes and no", "1"]),
  "text with digits": ("May 5", [r"\text{may } 5"], ["May 6", "5"]),
  "unparsed": ("@#5", ["@#5"], ["@#", "5", "#5@"]),
}  # fmt: skip
SHAPES = {
  "plain speed": ("60 km/h", ["60", "60 kph", r"60\text{ km/h}"],
                  ["60 m/s", "60 km/h^2", "60 km"]),
  "compound unit": ("60 mph", ["60 miles per hour", "60 mi/h"], ["60 km/h"]),
  "ordinal": ("3rd", ["3", "3^{\\text{rd}}"], ["4th", "3d"]),
  "number words": ("21", ["twenty-one", "twenty one"],
                   ["twelve", "twenty", "two one", "twenty twenty-one"]),
  "long number words": ("two hundred and five", ["205"], ["250", "2005"]),
  "blanks as separators": ("1000000", ["1 000 000", r"1\ 000\ 000"],
                           ["1 000 00", "1.000.000"]),
  "about": ("5", ["5"], ["~5", r"\approx 5", ">5", "about 5"]),
  "date": ("2020-05-05", ["2020-05-05", r"\text{2020-05-05}"],
           ["2010", "2020-05-06"]),
  "year": ("2010", ["2010"], ["2020-05-05", "2020"]),
  "slashed date": ("5/6/2020", ["5/6/2020"], ["1/2424", "6/5/2020"]),
  "time": ("3:30 pm", ["3:30 PM", "3:30 p.m.", r"3\!:\!30\text{ p.m.}"],
           ["3:30 am", "4:30 pm", "330 pm"]),
  "no solution": ("no solution", ["No solutions.", r"\emptyset"],
                  ["0", "solution", r"\{0\}"]),
  "all reals": (r"\mathbb R", ["all real numbers", r"(-\infty,\infty)"],
                [r"\mathbb Q", "all"]),
  "lines of a matrix": (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}",
                        ["[[1,2],[3,4]]"], ["[[1,2],[3,5]]", "[1,2,3,4]"]),
  "column": (r"\begin{pmatrix}1\\2\\3\end{pmatrix}",
             ["(1,2,3)", "[1,2,3]"], ["(1,3,2)", "(1,2)", "1,2,3"]),
  "system as a tuple": ("(3,4)", ["y=4, x=3"], ["y=3, x=4"]),
  "numbered roots": ("1, 2", ["x_1=2, x_2=1"], ["x_1=1, x_2=3", "x_1=1"]),
  "styled letter": (r"\text{n}", ["n", r"\mathrm{n}"], ["m", "nn"]),
}  # fmt: skip
TABLES = {**NUMBERS, **QUANTITIES, **GROUPS, **FORMULAS, **WORDS, **SHAPES}
PAIRS = [
  (f"{name}: {text}", gold, text, float(kind == 1))
  for name, row in TABLES.items()
  for gold in row[:1]
  for kind in (1, 2)
  for text in row[kind]
]


def verdict(gold, text, is_tagged=True):
  question = Question("q", "", gold, "math")
  return verify_math.verify(question, extract.Answer(text, is_tagged))


class VerifyTest(parameterized.TestCase):
  @parameterized.named_parameters(*PAIRS)
  def test_verdict(self, gold, text, value):
    reward = verdict(gold, text)
    self.assertEqual(reward.value, value, reward.reason)
    self.assertEqual(verdict(gold, text), reward)
    self.assertNotRegex(reward.reason, r"\n|^\s*$")
    self.assertLess(len(reward.reason), 250)

  @parameterized.parameters(*TABLES)
  def test_gold_is_its_own_answer(self, name):
    gold = TABLES[name][0]
    self.assertEqual(verdict(gold, gold).value, 1.0)
    self.assertEqual(verdict(rf"\boxed{{{gold}}}", gold).value, 1.0)

  @parameterized.parameters(5, 5.0, "5", r"so \boxed{5}")
  def test_golds(self, gold):
    self.assertEqual(verdict(gold, r"it is \boxed{5}").value, 1.0)
    self.assertEqual(verdict(gold, r"it is \boxed{6}").value, 0.0)

  @parameterized.parameters((None,), (True,), ("",), (" \u200b",), ([5],))
  def test_malformed_golds(self, gold):
    question = Question("q", "", gold, "math")
    with self.assertRaisesRegex(ValueError, "answer is"):
      verify_math.check_gold(question)
    with self.assertRaisesRegex(ValueError, "answer is"):
      verdict(gold, "5")

  @parameterized.named_parameters(
    ("long", "1+" * 5_000 + "1"),
    ("many digits", "7" * 1_900),
    ("large exponent", "1e99999"),
    ("deep braces", "{" * 900 + "5" + "}" * 900),
    ("deep brackets", "(" * 900 + "5" + ")" * 900),
    ("deep roots", r"\sqrt{" * 250 + "5" + "}" * 250),
    ("many signs", "-" * 1_501 + "5"),
    ("tower", "9^{9^{9^{9^9}}}"),
    ("large factorial", "(9^9)!"),
    ("wide power", "(a+b+c+d)^{200}"),
    ("program", "__import__('os').system('echo 5')"),
    ("lambda", "(lambda: 5)()"),
    ("reward talk", "The reward of this is 1"),
  )
  def test_hostile_answers_are_wrong(self, text):
    reward = verdict("5", text)
    self.assertEqual(reward.value, 0.0)
    self.assertNotIn("\n", reward.reason)


class ExtractedTest(parameterized.TestCase):
  @parameterized.parameters(
    (r"\boxed{5}", 1),
    (r"\boxed 5", 1),
    (r"\fbox{5}", 1),
    (r"\boxed{\boxed{5}}", 1),
    (r"\boxed{4} and then \boxed{5}", 1),
    (r"\boxed{5} and then \boxed{4}", 0),
    (r"\boxed{5} and then \boxed{4", 1),
    (r"\boxed{5", 0),
    (r"\boxed{}", 0),
    (r"\boxed{5}\boxed{}", 0),
    ("The answer is 5.", 1),
    ("the answer is **5**", 1),
    ("Answer: 5", 1),
    ("**Answer:** 5", 1),
    ("**Final Answer**\n\n5", 1),
    ("Final Answer: $5$", 1),
    ("#### 5", 1),
    ("The answer is 4. The answer is 5.", 1),
    ("The answer is 5. The answer is 4.", 0),
    ("the answer is not 5", 0),
    ("the answer is 5 or 6", 0),
    ("the answer is 5, no wait, 6", 0),
    ("so we get 5", 0),
    ("5", 0),
  )
  def test_untagged(self, text, value):
    self.assertEqual(verdict("5", text, False).value, value)

  @parameterized.parameters(
    ("5", 1),
    ("The answer is 5.", 1),
    ("**Final answer:** 5", 1),
    ("Thus, the correct answer is $5$", 1),
    ("6, or the answer is 5", 0),
    ("The answer is 6", 0),
    (r"so \boxed{5} is it", 1),
    ("so 5", 0),
    ("I think 5", 0),
    ("5\n6", 0),
    (r"\boxed{5", 0),
  )
  def test_tagged(self, text, value):
    self.assertEqual(verdict("5", text).value, value)


if __name__ == "__main__":
  absltest.main()
