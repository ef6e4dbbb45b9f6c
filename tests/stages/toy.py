"""A policy of one table, questions about nothing, rollouts by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from r1jax import policy, rollout
from r1jax.records import Question, Response, Reward
from r1jax.sampling import engine

V = 8
EOS = 7


def logprobs(params, buffers, batch):
  """log p(token t) from the table's row of token t - 1."""
  del buffers
  before_BT = jnp.pad(batch.tokens_BT[:, :-1], ((0, 0), (1, 0)))
  all_BTV = jax.nn.log_softmax(params["table_VV"][before_BT])
  picked_BT1 = jnp.take_along_axis(all_BTV, batch.tokens_BT[:, :, None], 2)
  entropy_BT = -jnp.sum(jnp.exp(all_BTV) * all_BTV, axis=-1)
  return policy.Scores(
    *(
      jnp.where(batch.mask_BT, x_BT, 0.0)
      for x_BT in (picked_BT1[:, :, 0], jax.lax.stop_gradient(entropy_BT))
    ),
    None,
  )


POLICY = policy.Policy(None, logprobs, None)


@functools.cache
def table(seed):
  rng = np.random.default_rng(seed)
  return {"table_VV": rng.normal(size=(V, V)).astype(np.float32)}


def log_softmax(params):
  """The table's log-probabilities in float64."""
  table_VV = np.asarray(params["table_VV"], np.float64)
  shifted_VV = table_VV - table_VV.max(axis=1, keepdims=True)
  return shifted_VV - np.log(np.exp(shifted_VV).sum(axis=1, keepdims=True))


def row(question, sample, tokens, reward, *, params, finish_reason="eos"):
  """A graded response whose prompt is [question, 1]."""
  prompt = [question % (V - 2), 1]
  logprobs_VV = log_softmax(params)
  both = [*prompt, *tokens]
  sampled = engine.Sample(
    question,
    sample,
    np.array(tokens, np.int32),
    np.array(
      [logprobs_VV[both[i], both[i + 1]] for i in range(1, len(both) - 1)],
      np.float32,
    ),
    np.full((len(both), 1, 2), question, np.int32),
    finish_reason,
  )
  return rollout.Row(
    Question(f"q{question}", "?", 0, "none"),
    prompt,
    sampled,
    Response("text", len(tokens), finish_reason),
    {"accuracy": Reward(reward, "by hand")},
    reward,
  )


def roll(rewards, finish_reasons=None):
  """A rollout function; rewards[q][g] is the reward of q's sample g.

  Responses are random tokens of random lengths with an EOS at the end.
  """

  def run(params, buffers, key, questions, samples, first=0):
    del buffers, key, first
    rows = []
    for question in questions:
      q = int(question.id[1:])
      for g in range(samples):
        finish = (finish_reasons or {}).get((q, g), "eos")
        rng = np.random.default_rng((q, g))
        tokens = rng.integers(0, V - 1, rng.integers(1, 5)).tolist()
        tokens += [EOS] * (finish == "eos")
        rows.append(
          row(q, g, tokens, rewards[q][g], params=params, finish_reason=finish)
        )
    return rollout.Rollout(rows, 0.5)

  return run


def questions(index, n):
  """Question i of the order has the id qi."""
  return [Question(f"q{index + i}", "?", 0, "none") for i in range(n)]
