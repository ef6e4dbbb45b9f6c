"""Names that formulas use: characters, functions, units and number words."""

# Characters and the LaTeX they stand for.
CHARACTERS = {
  "−": "-", "‐": "-", "‑": "-", "–": "-", "—": "-", "﹣": "-", "－": "-",
  "×": r"\times ", "✕": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ",
  "∙": r"\cdot ", "•": r"\cdot ", "∗": "*", "÷": r"\div ", "∕": "/",
  "⁄": "/", "√": r"\radical ", "∛": r"\radical[3] ", "∜": r"\radical[4] ",
  "∞": r"\infty ", "≤": r"\le ", "⩽": r"\le ", "≦": r"\le ", "≥": r"\ge ",
  "⩾": r"\ge ", "≧": r"\ge ", "≠": r"\ne ", "≈": r"\approx ",
  "≃": r"\approx ", "≅": r"\approx ", "≡": r"\equiv ", "∈": r"\in ",
  "∪": r"\cup ", "∩": r"\cap ", "∖": r"\setminus ", "∅": r"\emptyset ",
  "±": r"\pm ", "∓": r"\mp ", "°": r"^\circ ", "º": r"^\circ ",
  "℃": r"^\circ C", "℉": r"^\circ F", "′": "'", "’": "'", "‘": "'",
  "“": '"', "”": '"', "⟨": r"\langle ", "⟩": r"\rangle ",
  "〈": r"\langle ", "〉": r"\rangle ", "⌊": r"\lfloor ",
  "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "∣": "|",
  "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}",
  "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}", "ℯ": "e", "ⅈ": "i",
  "∧": r"\land ", "∨": r"\lor ", "…": "...", "⋯": "...",
  "→": r"\to ", "⇒": r"\Rightarrow ", "。": ".", "、": ", ", "，": ", ",
  "；": "; ", "：": ": ", "（": "(", "）": ")", "£": r"\pounds ",
  "€": r"\euro ", "¥": r"\yen ", "₹": r"\rupee ", "￥": r"\yen ",
}  # fmt: skip

SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱˣ", "0123456789+-=()nix"))
SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₙₓᵢ", "0123456789+-=()aenxi"))
FRACTIONS = {
  "½": (1, 2), "⅓": (1, 3), "⅔": (2, 3), "¼": (1, 4), "¾": (3, 4),
  "⅕": (1, 5), "⅖": (2, 5), "⅗": (3, 5), "⅘": (4, 5), "⅙": (1, 6),
  "⅚": (5, 6), "⅐": (1, 7), "⅛": (1, 8), "⅜": (3, 8), "⅝": (5, 8),
  "⅞": (7, 8), "⅑": (1, 9), "⅒": (1, 10),
}  # fmt: skip

GREEK = {
  "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon",
  "ϵ": "epsilon", "ζ": "zeta", "η": "eta", "θ": "theta", "ϑ": "theta",
  "ι": "iota", "κ": "kappa", "λ": "lambda", "μ": "mu", "µ": "mu",
  "ν": "nu", "ξ": "xi", "π": "pi", "ρ": "rho", "σ": "sigma", "τ": "tau",
  "φ": "phi", "ϕ": "phi", "χ": "chi", "ψ": "psi", "ω": "omega",
  "Γ": "Gamma", "Δ": "Delta", "Θ": "Theta", "Λ": "Lambda", "Ξ": "Xi",
  "Π": "Pi", "Σ": "Sigma", "Φ": "Phi", "Ψ": "Psi", "Ω": "Omega",
}  # fmt: skip
GREEK_NAMES = frozenset(GREEK.values()) | {"varepsilon", "varphi", "vartheta"}

# Functions of one argument, by every name they go by.
FUNCTIONS = {
  "sin": "sin", "cos": "cos", "tan": "tan", "tg": "tan", "cot": "cot",
  "ctg": "cot", "sec": "sec", "csc": "csc", "cosec": "csc",
  "arcsin": "asin", "arccos": "acos", "arctan": "atan", "asin": "asin",
  "acos": "acos", "atan": "atan", "arctg": "atan", "arccot": "acot",
  "arcsec": "asec", "arccsc": "acsc", "sinh": "sinh", "cosh": "cosh",
  "tanh": "tanh", "arcsinh": "asinh", "arccosh": "acosh",
  "arctanh": "atanh", "asinh": "asinh", "acosh": "acosh",
  "atanh": "atanh", "ln": "ln", "log": "log", "lg": "lg", "exp": "exp",
  "sqrt": "sqrt", "cbrt": "cbrt", "abs": "abs", "floor": "floor",
  "ceil": "ceil", "gcd": "gcd", "lcm": "lcm", "max": "max", "min": "min",
}  # fmt: skip
INVERSES = {
  "sin": "asin", "cos": "acos", "tan": "atan", "cot": "acot",
  "sec": "asec", "csc": "acsc", "sinh": "asinh", "cosh": "acosh",
  "tanh": "atanh",
}  # fmt: skip
TRIGONOMETRIC = frozenset(("sin", "cos", "tan", "cot", "sec", "csc"))

_UNIT_LINES = """
mm millimeter millimeters millimetre millimetres
cm centimeter centimeters centimetre centimetres cms
dm decimeter decimeters
m meter meters metre metres
km kilometer kilometers kilometre kilometres kms
nm nanometer nanometers
in inch inches
ft foot feet
yd yard yards yds
mi mile miles
mg milligram milligrams
g gram grams gm gms
kg kilogram kilograms kgs kilo kilos
lb lbs pound pounds
oz ounce ounces
ton tons tonne tonnes
ms millisecond milliseconds
s sec secs second seconds
min mins minute minutes
h hr hrs hour hours
day days
week weeks
month months
yr yrs year years
ml mL milliliter milliliters millilitre millilitres
L l liter liters litre litres
cc
gal gallon gallons
pt pint pints
qt quart quarts
cup cups
mph
kph kmh
Hz hertz
kHz kilohertz
MHz megahertz
N newton newtons
J joule joules
kJ kilojoule kilojoules
cal calorie calories
kcal kilocalorie kilocalories
W watt watts
kW kilowatt kilowatts
kWh
V volt volts
A amp amps ampere amperes
ohm ohms
Pa pascal pascals
kPa kilopascal kilopascals
atm
mol mole moles
K kelvin kelvins
deg degree degrees
rad radian radians
dollar dollars usd
cent cents
euro euros eur
gbp
yen
rupee rupees
"""
UNITS = {
  name: line.split()[0]
  for line in _UNIT_LINES.strip().splitlines()
  for name in line.split()
}
COMPOUND_UNITS = {
  "mph": (("mi", 1), ("h", -1)),
  "kph": (("km", 1), ("h", -1)),
  "kmh": (("km", 1), ("h", -1)),
}
# Units that a lone letter after a blank may stand for.
LETTER_UNITS = frozenset("mgshLlNJWVAK")
# Words that count and name no quantity.
NO_UNITS = frozenset(("unit", "units"))

SCALES = {
  "hundred": 10**2, "thousand": 10**3, "million": 10**6,
  "billion": 10**9, "trillion": 10**12, "dozen": 12,
}  # fmt: skip
_NUMBER_LINE = """
zero one two three four five six seven eight nine ten eleven twelve thirteen
fourteen fifteen sixteen seventeen eighteen nineteen twenty
"""
NUMBER_WORDS = {word: i for i, word in enumerate(_NUMBER_LINE.split())}
_TENS_LINE = "twenty thirty forty fifty sixty seventy eighty ninety"
TENS = {word: 10 * i for i, word in enumerate(_TENS_LINE.split(" "), 2)}
# Words that make a number something else than a quantity of a unit.
NO_UNIT_WORDS = frozenset(
  [
    "not",
    "no",
    "nor",
    "or",
    "and",
    "but",
    "if",
    "then",
    "else",
    "when",
    "where",
    "while",
    "because",
    "since",
    "so",
    "is",
    "are",
    "was",
    "be",
    "isn",
    "aint",
    "than",
    "more",
    "less",
    "fewer",
    "most",
    "least",
    "about",
    "approximately",
    "approx",
    "roughly",
    "maybe",
    "perhaps",
    "possibly",
    "probably",
    "plus",
    "minus",
    "times",
    "over",
    "divided",
    "by",
    "wrong",
    "right",
    "correct",
    "incorrect",
    "false",
    "true",
    "mod",
    "modulo",
    "base",
    "to",
    "from",
    "with",
    "without",
    "except",
    "only",
    "unless",
    "instead",
    "rather",
    "either",
    "neither",
    "both",
    "though",
    "although",
    "however",
    "wait",
    "actually",
    "the",
    "a",
    "an",
    "answer",
    "nan",
    "squared",
    "cubed",
    "half",
    "th",
    "also",
    "output",
    "grader",
    "score",
    "reward",
  ]
)

# Commands that style words, and those of them that may style formulas.
TEXT_COMMANDS = frozenset(
  [
    "text",
    "textbf",
    "textit",
    "textrm",
    "textsf",
    "texttt",
    "textnormal",
    "mbox",
    "hbox",
    "mathrm",
    "emph",
    "operatorname",
    "underline",
    "mathbf",
    "mathit",
    "mathsf",
    "mathtt",
    "boldsymbol",
    "bm",
    "pmb",
    "mathnormal",
    "boxed",
    "fbox",
    "tag",
    "label",
  ]
)
MATH_COMMANDS = frozenset(
  [
    "mathbf",
    "mathit",
    "boldsymbol",
    "bm",
    "pmb",
    "mathnormal",
    "boxed",
    "fbox",
    "underline",
  ]
)
