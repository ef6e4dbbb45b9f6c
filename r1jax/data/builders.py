"""The miniature world as a TFDS data set; TensorFlow is not needed.

Prepared as array records, which give random access.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow_datasets as tfds

from r1jax.data import countdown, general, programs, split_by_content

JSON_FIELDS = ("answer", "meta")  # Their texts are JSON.
_QUESTIONS = {
  "countdown": countdown.questions,
  "general": general.questions,
  "programs": programs.questions,
}


class R1Miniature(tfds.core.GeneratorBasedBuilder):
  """Questions of the miniature world; a config for each kind."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "Countdown, general prompts and programs."}
  BUILDER_CONFIGS = [
    tfds.core.BuilderConfig(name=name, description=f"Only {name} questions.")
    for name in _QUESTIONS
  ]

  def _info(self) -> tfds.core.DatasetInfo:
    names = ("id", "question", "answer", "verifier", "language", "meta")
    return tfds.core.DatasetInfo(
      builder=self,
      description="Questions of r1jax's miniature world.",
      features=tfds.features.FeaturesDict(
        {name: tfds.features.Text() for name in names}
      ),
    )

  def _split_generators(self, dl_manager) -> dict[str, Iterator]:
    del dl_manager
    return {
      split: self._generate_examples(split) for split in split_by_content.SPLITS
    }

  def _generate_examples(self, split: str) -> Iterator[tuple[str, dict]]:
    for question in _QUESTIONS[self.builder_config.name](split=split):
      row = question._asdict()
      for name in JSON_FIELDS:
        row[name] = json.dumps(row[name], ensure_ascii=False)
      yield question.id, row


def rows(
  dataset: str, split: str, data_dir: str | None
) -> Sequence[dict[str, Any]]:
  """The rows of a TFDS data set, with random access; prepared if need be.

  Raises:
    ValueError: If there is no such data set, config or split.
  """
  try:
    builder = tfds.builder(
      dataset, data_dir=data_dir, file_format="array_record"
    )
  except (tfds.core.DatasetNotFoundError, ValueError) as error:
    raise ValueError(
      f"dataset is {dataset!r}, which TFDS cannot build: {_first_line(error)}"
    ) from error
  if not sys.stderr.isatty():
    tfds.disable_progress_bar()
  builder.download_and_prepare()
  try:
    return builder.as_data_source(split=split)
  except ValueError as error:
    known = ", ".join(builder.info.splits)
    raise ValueError(
      f"split is {split!r}, which TFDS cannot read: {_first_line(error)} "
      f"Known in {dataset}: {known}."
    ) from error


def _first_line(error: Exception) -> str:
  return str(error).strip().splitlines()[0]
