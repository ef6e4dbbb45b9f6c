"""Questions of the reasoning-gym package (arXiv:2505.24760).

It makes items procedurally, an item a function of seed and index, and
scores answers itself; `rewards.verify_gym` runs its scorers.
"""

import json
from collections.abc import Mapping
from typing import Any

from r1jax import registry
from r1jax.data import split_by_content
from r1jax.records import Question

# Data sets whose scorer takes wrong answers for right, and who judges:
# "0" of every coin_flip, "NaN" of every complex_arithmetic, any text of most
# game_of_life_halting.
OURS = {
  "coin_flip": "math",
  "complex_arithmetic": "math",
  "game_of_life_halting": "logic",
}
_TEST_SEED = 1 << 30  # Of the first test item, above that of train.
_DRAWS = 50  # For each question that is wanted; most data sets need 5.


def questions(
  dataset: str,
  split: str,
  size: int,
  seed: int,
  test_frac: float,
  arguments: Mapping[str, Any],
) -> list[Question]:
  """Distinct questions of a data set, train and test apart.

  Train and test items have seeds of their own, and of either only those are
  taken whose content falls to their split, so that no two runs with any
  seeds train on what they are tested on.

  Args:
    dataset: A name of reasoning-gym.
    split: "train" or "test".
    size: How many.
    seed: 0 to 2^29; another draws other items.
    test_frac: Share of the contents that are test's.
    arguments: Of the data set's own config.

  Raises:
    ValueError: If the package is missing, for an unknown data set or
      argument, or if there are fewer distinct questions.
  """
  if not (isinstance(size, int) and size >= 1):
    raise ValueError(f"size is {size!r}. It must be an integer of 1 or more.")
  if not (isinstance(seed, int) and 0 <= seed <= _TEST_SEED // 2):
    raise ValueError(f"seed is {seed!r}, outside 0 to {_TEST_SEED // 2}.")
  if split not in split_by_content.SPLITS:
    known = ", ".join(split_by_content.SPLITS)
    raise ValueError(f"split is {split!r}. Known: {known}.")
  first = seed + (_TEST_SEED if split == "test" else 0)
  draws = _DRAWS * size + 1000
  items = make(dataset, arguments, size=draws, seed=first)
  found: dict[str, Question] = {}
  for i in range(draws):
    asked = _question(dataset, arguments, items[i], f"{split}:{first + i}")
    if split_by_content.split_of(asked, test_frac=test_frac) == split:
      found.setdefault(split_by_content.content(asked), asked)
    if len(found) == size:
      return list(found.values())
  raise ValueError(
    f"size is {size}, but reasoning_gym {dataset} with {dict(arguments)} has "
    f"{len(found)} distinct {split} questions in {draws} draws. Set it to that "
    "or less, or ask for harder ones."
  )


def make(
  dataset: str, arguments: Mapping[str, Any], *, size: int, seed: int
) -> Any:
  """A data set of reasoning-gym: items by index, and their scorer.

  Raises:
    ValueError: If the package is missing, or for an unknown data set or
      argument.
  """
  try:
    import reasoning_gym
    from reasoning_gym import factory
  except ImportError as error:
    raise ValueError(
      "The data set reasoning_gym needs the package reasoning-gym. Install "
      "it with: pip install 'r1jax[reasoning]'."
    ) from error
  if dataset == "composite":
    raise ValueError(
      "dataset is 'composite'. Mix data sets with dict(name='mixture', "
      "parts=[...]) instead."
    )
  registry.lookup(factory.DATASETS, dataset, "dataset")
  try:
    return reasoning_gym.create_dataset(
      dataset, size=size, seed=seed, **arguments
    )
  except (AssertionError, TypeError, ValueError) as error:
    raise ValueError(
      f"arguments {dict(arguments)} do not suit reasoning_gym {dataset}: "
      f"{str(error) or 'a check of its config fails'}."
    ) from error


def _question(
  dataset: str, arguments: Mapping[str, Any], item: Any, id_: str
) -> Question:
  entry = json.loads(json.dumps(item["metadata"]))
  return Question(
    id=f"{dataset}:{id_}",
    question=item["question"],
    answer=item["answer"],
    verifier=OURS.get(dataset, "reasoning_gym"),
    meta={
      "dataset": dataset,
      "arguments": dict(arguments),
      "metadata": entry,
    },
  )
