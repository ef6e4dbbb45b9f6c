"""The objectives again, as float64 NumPy loops that share no code with r1jax.

Written from the papers' formulas, one token at a time, without a thought for
speed. What comes back is what the package's function of that name returns.
"""

import math

import numpy as np


def group_normalized(rewards_QG, *, eps=1e-6, ddof=0):
  out_QG = np.zeros(np.shape(rewards_QG), np.float64)
  for q, rewards_G in enumerate(rewards_QG):
    mean = sum(map(float, rewards_G)) / len(rewards_G)
    variance = sum((float(r) - mean) ** 2 for r in rewards_G)
    std = math.sqrt(variance / (len(rewards_G) - ddof))
    for g, r in enumerate(rewards_G):
      out_QG[q, g] = (float(r) - mean) / (std + eps)
  return out_QG


def group_centered(rewards_QG):
  out_QG = np.zeros(np.shape(rewards_QG), np.float64)
  for q, rewards_G in enumerate(rewards_QG):
    mean = sum(map(float, rewards_G)) / len(rewards_G)
    for g, r in enumerate(rewards_G):
      out_QG[q, g] = float(r) - mean
  return out_QG


def leave_one_out(rewards_QG):
  out_QG = np.zeros(np.shape(rewards_QG), np.float64)
  for q, rewards_G in enumerate(rewards_QG):
    for g, r in enumerate(rewards_G):
      others = [float(x) for j, x in enumerate(rewards_G) if j != g]
      out_QG[q, g] = float(r) - sum(others) / len(others)
  return out_QG


def batch_normalized(rewards_QG, *, eps=1e-6):
  every = [float(r) for rewards_G in rewards_QG for r in rewards_G]
  mean = sum(every) / len(every)
  std = math.sqrt(sum((r - mean) ** 2 for r in every) / len(every))
  out_QG = np.zeros(np.shape(rewards_QG), np.float64)
  for q, rewards_G in enumerate(rewards_QG):
    for g, r in enumerate(rewards_G):
      out_QG[q, g] = (float(r) - mean) / (std + eps)
  return out_QG


def token_mean(lengths_B, keep_B):
  total = sum(int(n) for n, keep in zip(lengths_B, keep_B) if keep)
  return np.array(
    [1 / total if keep and n else 0.0 for n, keep in zip(lengths_B, keep_B)]
  )


def sequence_mean(lengths_B, keep_B):
  kept = sum(bool(keep) for keep in keep_B)
  return np.array(
    [
      1 / kept / int(n) if keep and n else 0.0
      for n, keep in zip(lengths_B, keep_B)
    ]
  )


def fixed_length(lengths_B, keep_B, *, max_tokens):
  kept = sum(bool(keep) for keep in keep_B)
  return np.array(
    [
      1 / kept / max_tokens if keep and n else 0.0
      for n, keep in zip(lengths_B, keep_B)
    ]
  )


def kl(policy_V, ref_V):
  """KL(policy || ref), summed over the vocabulary."""
  return sum(p * math.log(p / r) for p, r in zip(policy_V, ref_V))


def kl_gradient(policy_V, ref_V):
  """Gradient of KL(policy || ref) by the logits of policy."""
  total = kl(policy_V, ref_V)
  return np.array(
    [p * (math.log(p / r) - total) for p, r in zip(policy_V, ref_V)]
  )


def forward_kl_gradient(policy_V, ref_V):
  """Gradient of KL(ref || policy) by the logits of policy."""
  return np.array([p - r for p, r in zip(policy_V, ref_V)])


def clipped_surrogate(
  logprobs_BT,
  old_logprobs_BT,
  advantages_BT,
  mask_BT,
  segments_BT,
  *,
  clip_low,
  clip_high,
  dual_clip=None,
):
  loss_BT = np.zeros(mask_BT.shape, np.float64)
  for b, t in np.argwhere(mask_BT):
    ratio = math.exp(float(logprobs_BT[b, t]) - float(old_logprobs_BT[b, t]))
    a = float(advantages_BT[b, t])
    loss_BT[b, t] = -_surrogate(ratio, a, clip_low, clip_high, dual_clip)
  return loss_BT


def gspo(
  logprobs_BT,
  old_logprobs_BT,
  advantages_BT,
  mask_BT,
  segments_BT,
  *,
  clip_low,
  clip_high,
):
  loss_BT = np.zeros(mask_BT.shape, np.float64)
  for b, t in np.argwhere(mask_BT):
    log_ratios = [
      float(logprobs_BT[b, u]) - float(old_logprobs_BT[b, u])
      for u in range(mask_BT.shape[1])
      if mask_BT[b, u] and segments_BT[b, u] == segments_BT[b, t]
    ]
    ratio = math.exp(sum(log_ratios) / len(log_ratios))
    a = float(advantages_BT[b, t])
    loss_BT[b, t] = -_surrogate(ratio, a, clip_low, clip_high, None)
  return loss_BT


def cispo(
  logprobs_BT,
  old_logprobs_BT,
  advantages_BT,
  mask_BT,
  segments_BT,
  *,
  clip_high,
  clip_low=None,
):
  loss_BT = np.zeros(mask_BT.shape, np.float64)
  for b, t in np.argwhere(mask_BT):
    logprob = float(logprobs_BT[b, t])
    weight = min(
      math.exp(logprob - float(old_logprobs_BT[b, t])), 1 + clip_high
    )
    if clip_low is not None:
      weight = max(weight, 1 - clip_low)
    loss_BT[b, t] = -weight * float(advantages_BT[b, t]) * logprob
  return loss_BT


def cross_entropy(
  logprobs_BT, old_logprobs_BT, advantages_BT, mask_BT, segments_BT
):
  loss_BT = np.zeros(mask_BT.shape, np.float64)
  for b, t in np.argwhere(mask_BT):
    loss_BT[b, t] = -float(logprobs_BT[b, t])
  return loss_BT


def token_truncate(old_BT, sampler_BT, mask_BT, segments_BT, *, cap):
  out_BT = np.zeros(mask_BT.shape, np.float64)
  for b, t in np.argwhere(mask_BT):
    k = math.exp(float(old_BT[b, t]) - float(sampler_BT[b, t]))
    out_BT[b, t] = min(k, cap)
  return out_BT


def token_mask(old_BT, sampler_BT, mask_BT, segments_BT, *, low, high):
  out_BT = np.zeros(mask_BT.shape, np.float64)
  for b, t in np.argwhere(mask_BT):
    k = math.exp(float(old_BT[b, t]) - float(sampler_BT[b, t]))
    out_BT[b, t] = k if low <= k <= high else 0.0
  return out_BT


def sequence_truncate(old_BT, sampler_BT, mask_BT, segments_BT, *, cap):
  out_BT = np.zeros(mask_BT.shape, np.float64)
  for b, t in np.argwhere(mask_BT):
    k = _product(old_BT, sampler_BT, mask_BT, segments_BT, b, t)
    out_BT[b, t] = min(k, cap)
  return out_BT


def sequence_mask(old_BT, sampler_BT, mask_BT, segments_BT, *, low, high):
  out_BT = np.zeros(mask_BT.shape, np.float64)
  for b, t in np.argwhere(mask_BT):
    k = _product(old_BT, sampler_BT, mask_BT, segments_BT, b, t)
    out_BT[b, t] = k if low <= k <= high else 0.0
  return out_BT


def best_fit(lengths, row_tokens):
  left = []
  rows = []
  todo = list(range(len(lengths)))
  while todo:
    longest = todo[0]
    for i in todo:
      if lengths[i] > lengths[longest]:
        longest = i
    todo.remove(longest)
    best = None
    for row, room in enumerate(left):
      if room >= lengths[longest] and (best is None or room < left[best]):
        best = row
    if best is None:
      best = len(rows)
      rows.append([])
      left.append(row_tokens)
    rows[best].append(longest)
    left[best] -= lengths[longest]
  return rows


def _surrogate(ratio, advantage, clip_low, clip_high, dual_clip):
  clipped = max(1 - clip_low, min(ratio, 1 + clip_high))
  value = min(ratio * advantage, clipped * advantage)
  if advantage < 0 and dual_clip is not None:
    value = max(value, dual_clip * advantage)
  return value


def _product(old_BT, sampler_BT, mask_BT, segments_BT, b, t):
  k = 1.0
  for u in range(mask_BT.shape[1]):
    if mask_BT[b, u] and segments_BT[b, u] == segments_BT[b, t]:
      k *= math.exp(float(old_BT[b, u]) - float(sampler_BT[b, u]))
  return k


def pairwise(scores_BT, rivals_BT, targets_BT, mask_BT, *, margin_coef=0.0):
  """(loss, gradient by the scores, gradient by the rivals' scores)."""
  out = np.zeros((3, *mask_BT.shape), np.float64)
  for b, t in np.argwhere(mask_BT):
    own, rival = float(scores_BT[b, t]), float(rivals_BT[b, t])
    target = float(targets_BT[b, t])
    better, worse = (own, rival) if target > 0 else (rival, own)
    z = better - worse - margin_coef * abs(target)
    slope = -1 / (1 + math.exp(z))
    out[0, b, t] = math.log(1 + math.exp(-z))
    out[1, b, t] = slope if target > 0 else -slope
    out[2, b, t] = -out[1, b, t]
  return out


def pointwise(scores_BT, rivals_BT, targets_BT, mask_BT):
  """(loss, gradient by the scores, gradient by the rivals' scores: none)."""
  out = np.zeros((3, *mask_BT.shape), np.float64)
  for b, t in np.argwhere(mask_BT):
    p = 1 / (1 + math.exp(-float(scores_BT[b, t])))
    label = 1.0 if targets_BT[b, t] > 0 else 0.0
    out[0, b, t] = -(label * math.log(p) + (1 - label) * math.log(1 - p))
    out[1, b, t] = p - label
  return out
