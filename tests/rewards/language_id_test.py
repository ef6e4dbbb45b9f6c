import sys
import time
from unittest import mock

from absl.testing import absltest, parameterized

from r1jax.rewards import language, language_id

# Sentences of our own, not used to choose the constants of the chain.
SENTENCES = {
  "en": (
    "Each of the four workers paints one third of the wall in a day.",
    "I made a mistake above, because the sign of the second term is wrong.",
  ),
  "fr": (
    "Chacun des quatre ouvriers peint un tiers du mur en une journée.",
    "Je me suis trompé plus haut, car le signe du deuxième terme est faux.",
  ),
  "de": (
    "Jeder der vier Arbeiter streicht an einem Tag ein Drittel der Wand.",
    "Oben habe ich mich geirrt, denn das Vorzeichen ist falsch.",
  ),
  "es": (
    "Cada uno de los cuatro obreros pinta un tercio de la pared en un día.",
    "Me equivoqué arriba, porque el signo del segundo término está mal.",
  ),
  "it": (
    "Ognuno dei quattro operai dipinge un terzo del muro in un giorno.",
    "Ho sbagliato sopra, perché il segno del secondo termine è errato.",
  ),
  "pt": (
    "Cada um dos quatro trabalhadores pinta um terço da parede em um dia.",
    "Cometi um erro acima, pois o sinal do segundo termo está errado.",
  ),
  "nl": (
    "Elk van de vier arbeiders schildert een derde van de muur per dag.",
    "Hierboven maakte ik een fout, want het teken klopt niet.",
  ),
  "pl": (
    "Każdy z czterech robotników maluje jedną trzecią ściany dziennie.",
    "Pomyliłem się wyżej, bo znak drugiego składnika jest błędny.",
  ),
  "vi": (
    "Mỗi người trong bốn công nhân sơn một phần ba bức tường mỗi ngày.",
    "Tôi đã nhầm ở trên, vì dấu của số hạng thứ hai bị sai.",
  ),
  "tr": (
    "Dört işçinin her biri bir günde duvarın üçte birini boyar.",
    "Yukarıda hata yaptım, çünkü ikinci terimin işareti yanlış.",
  ),
  "ru": (
    "Каждый из четырёх рабочих красит треть стены за день.",
    "Выше я ошибся, потому что знак второго слагаемого неверен.",
  ),
  "uk": (
    "Кожен із чотирьох робітників фарбує третину стіни за день.",
    "Вище я помилився, бо знак другого доданка неправильний.",
  ),
  "fa": (
    "هر یک از چهار کارگر در یک روز یک سوم دیوار را رنگ می‌کند.",
    "در بالا اشتباه کردم، چون علامت جمله دوم نادرست است.",
  ),
  "ar": (
    "كل عامل من العمال الأربعة يدهن ثلث الجدار في يوم واحد.",
    "لقد أخطأت أعلاه لأن إشارة الحد الثاني خاطئة.",
  ),
  "hi": (
    "चारों मज़दूरों में से हर एक एक दिन में दीवार का एक तिहाई रंगता है।",
    "ऊपर मुझसे गलती हुई, क्योंकि दूसरे पद का चिह्न गलत है।",
  ),
  "mr": (
    "चार कामगारांपैकी प्रत्येक जण एका दिवसात भिंतीचा एक तृतीयांश रंगवतो.",
    "वर माझी चूक झाली, कारण दुसऱ्या पदाचे चिन्ह चुकीचे आहे.",
  ),
}
SCRIPTS = ("Latin", "Cyrillic", "Arabic", "Devanagari")


def share(text, code):
  counts = language.languages(text, code, "lingua")
  return counts[code] / counts.total()


def rivals(code):
  (script,) = language.LANGUAGES[code]
  return [x for x in SENTENCES if language.LANGUAGES[x] == (script,)]


class LabelsTest(parameterized.TestCase):
  @parameterized.parameters(*SENTENCES)
  def test_a_language_is_itself(self, code):
    for sentence in SENTENCES[code]:
      self.assertEqual(share(sentence, code), 1.0, sentence)

  @parameterized.parameters(*SENTENCES)
  def test_a_language_is_no_other(self, code):
    for other in rivals(code):
      if other != code:
        text = " ".join(SENTENCES[other])
        # One short Hindi sentence may pass for Marathi.
        most = 0.6 if (other, code) == ("hi", "mr") else 0.1
        self.assertLess(share(text, code), most, other)

  @parameterized.parameters("fr", "de", "es", "it", "nl", "pl", "vi", "tr")
  def test_sentences_in_turn_are_told_apart(self, code):
    text = " ".join(
      f"{a} {b}" for a, b in zip(*map(SENTENCES.get, ("en", code)))
    )
    counts = language.languages(text, "en", "lingua")
    want = language.languages(" ".join(SENTENCES["en"]), "en", "script")["en"]
    self.assertAlmostEqual(counts["en"], want, delta=3)
    self.assertAlmostEqual(counts[code], counts.total() - want, delta=3)

  def test_a_clause_in_another_language(self):
    text = "We know that the number is even, "
    text += "donc nous pouvons le diviser par deux et recommencer, "
    text += "and then the remainder is zero."
    counts = language.languages(text, "en", "lingua")
    self.assertAlmostEqual(counts["fr"], 9, delta=2)
    self.assertEqual(counts["en"] + counts["fr"], counts.total())

  @parameterized.parameters(
    ("Hello my friend", "en"),
    ("Okay.", "en"),
    ("Hmm, wait.", "en"),
    ("Bonjour", "fr"),
    ("Hallo", "de"),
  )
  def test_short_texts_are_in_the_wanted_language(self, text, code):
    self.assertEqual(share(text, code), 1.0)

  @parameterized.parameters("word " * 50, "no no no no no no", "so, so, so.")
  def test_the_same_word_again_is_no_proof(self, text):
    self.assertEqual(share(text, "en"), 1.0)

  def test_names_and_terms_cost_nothing(self):
    text = "By Fermat, Euler and Cauchy the Eigenwert of the matrix is real, "
    text += "as Pappus and Ramanujan knew."
    self.assertEqual(share(text, "en"), 1.0)

  @parameterized.parameters(
    (
      "Ich denke, that the answer is obviously twenty, aber wir prüfen das.",
      "de",
      {"de": 6, "en": 6},
    ),
    (
      "First we count the balls, puis nous divisons le total par deux, "
      "so that the answer is ten.",
      "en",
      {"en": 11, "fr": 7},
    ),
  )
  def test_clauses_by_hand(self, text, code, counts):
    self.assertEqual(language.languages(text, code, "lingua"), counts)

  def test_near_languages(self):
    text = "Necesitamos elegir dos bolas de cinco. El orden no importa, así "
    text += "que dividimos por dos."
    self.assertEqual(share(text, "es"), 1.0)
    self.assertLess(share(text, "pt"), 0.5)

  def test_no_words(self):
    self.assertEqual(language_id.labels([[], []], ["en", "fr"], "en"), [])

  def test_capitals_do_not_matter(self):
    text = SENTENCES["fr"][0]
    self.assertEqual(share(text.upper(), "en"), share(text, "en"))

  def test_long_texts_take_linear_time(self):
    text = " ".join(SENTENCES["en"] + SENTENCES["fr"]) + " "
    start = time.perf_counter()
    share(text * (100_000 // len(text)), "en")
    share("a" * 100_000, "en")
    share("\u0301".join("ab" * 25_000), "en")
    self.assertLess(time.perf_counter() - start, 4.0)

  def test_what_to_do_without_lingua(self):
    self.addCleanup(language_id._detector.cache_clear)
    language_id._detector.cache_clear()
    language_id._evidence.cache_clear()
    with (
      mock.patch.dict(sys.modules, lingua=None),
      self.assertRaisesRegex(ModuleNotFoundError, r"r1jax\[language\].*script"),
    ):
      share("the and", "en")

  @parameterized.parameters("zh", "ja", "ko", "th", "el", "he")
  def test_a_language_alone_in_its_script_needs_no_lingua(self, code):
    language_id._detector.cache_clear()
    with mock.patch.dict(sys.modules, lingua=None):
      self.assertEqual(language.languages("Hello", code, "lingua")[code], 0)


if __name__ == "__main__":
  absltest.main()
