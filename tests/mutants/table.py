"""The bug museum: known ways to be silently wrong, and what catches each.

A mutant replaces a text that stands once in a file. With it, its test must
fail; `python -m pytest tests/mutants -m slow` shows that it does.
"""

from typing import NamedTuple


class Mutant(NamedTuple):
  """A bug put back.

  Attributes:
    name: What is wrong.
    file: Where, from the root of the repository.
    old: Stands there once.
    new: Takes its place.
    test: file::class::method of the test that must fail.
  """

  name: str
  file: str
  old: str
  new: str
  test: str


GRPO = "r1jax/stages/grpo.py"
GRPO_TEST = "tests/stages/grpo_test.py"

MUTANTS = [
  Mutant(
    "the router bias is never updated",
    "r1jax/train.py",
    "if load_LE is not None and bias_rate:",
    "if load_LE is not None and bias_rate < 0:",
    "tests/train_test.py::UpdateTest::"
    "test_the_router_bias_moves_against_the_load",
  ),
  Mutant(
    "the KL term has no gradient",
    GRPO,
    's.kl["name"],\n        logprobs_BT,',
    's.kl["name"],\n        fixed_BT,',
    f"{GRPO_TEST}::LossTest::test_the_kl_term_has_the_gradient_of_its_value",
  ),
  Mutant(
    "the group index is lost",
    GRPO,
    "rewards_B.reshape(-1, settings.samples)",
    "rewards_B.reshape(settings.samples, -1).T",
    f"{GRPO_TEST}::CollectTest::test_advantages_are_those_of_the_whole_group",
  ),
  Mutant(
    "the EOS is outside of the loss",
    GRPO,
    '"mask_T": np.arange(n + m) >= n,',
    '"mask_T": (np.arange(n + m) >= n) & (np.arange(n + m) < n + m - 1),',
    f"{GRPO_TEST}::CollectTest::test_the_mask_is_the_response_with_its_eos",
  ),
  Mutant(
    "the mask is read off token ids, and the pad equals the EOS",
    GRPO,
    '"mask_T": np.arange(n + m) >= n,',
    '"mask_T": (np.arange(n + m) >= n) & (np.array('
    "[*prompt, *sample.tokens_T]) != sample.tokens_T[-1]),",
    f"{GRPO_TEST}::LossTest::test_loss_and_gradient_against_a_loop",
  ),
  Mutant(
    "the prompt is inside the loss",
    GRPO,
    '"mask_T": np.arange(n + m) >= n,',
    '"mask_T": np.arange(n + m) >= 1,',
    f"{GRPO_TEST}::CollectTest::test_the_mask_is_the_response_with_its_eos",
  ),
  Mutant(
    "packed sequences see each other",
    "r1jax/models/attention.py",
    "return same_BTS & causal_1TS & (segments_BT != 0)[:, :, None]",
    "return causal_1TS & (segments_BT != 0)[:, :, None]",
    "tests/policy_test.py::LogprobsTest::test_packed_equals_unpacked",
  ),
  Mutant(
    "positions go on through a packed row",
    "r1jax/packing.py",
    "[_positions(part) for part in parts]",
    "[np.arange(s.start, s.start + s.length, dtype=np.int32) for s in layout]",
    "tests/packing_test.py::PackTest::"
    "test_positions_and_segments_of_every_sequence",
  ),
  Mutant(
    "a token sees those after it",
    "r1jax/models/attention.py",
    "causal_1TS = jnp.tril(jnp.ones((1, T, T), bool))",
    "causal_1TS = jnp.ones((1, T, T), bool)",
    "tests/sampling/engine_test.py::TrainerTest::"
    "test_logprobs_and_experts_are_the_trainers",
  ),
  Mutant(
    "the cache is read one column late",
    "r1jax/sampling/decode.py",
    "jnp.arange(columns)[None, None] <= positions_B1[:, :, None]",
    "jnp.arange(columns)[None, None] < positions_B1[:, :, None]",
    "tests/sampling/engine_test.py::TrainerTest::"
    "test_logprobs_and_experts_are_the_trainers",
  ),
  Mutant(
    "the trainer scores at another temperature than the sampler",
    "r1jax/policy.py",
    "logits_BXV = project(hidden_BXD) / temperature",
    "logits_BXV = project(hidden_BXD)",
    "tests/policy_test.py::LogprobsTest::"
    "test_shifted_log_softmax_at_the_temperature",
  ),
  Mutant(
    "log-probabilities are those of the token after",
    "r1jax/policy.py",
    "source_BT = jnp.maximum(order_BT - 1, 0)",
    "source_BT = order_BT",
    "tests/policy_test.py::LogprobsTest::"
    "test_shifted_log_softmax_at_the_temperature",
  ),
  Mutant(
    "the reference samples instead of the policy",
    GRPO,
    "rolled = roll(state.params, state.buffers,",
    "rolled = roll(*state.reference,",
    f"{GRPO_TEST}::CollectTest::"
    "test_the_policy_at_hand_samples_with_the_key_of_the_round",
  ),
  Mutant(
    "the on-policy ratio is a rounded one",
    GRPO,
    "if s.updates > 1 or s.importance:",
    "if True:",
    f"{GRPO_TEST}::LossTest::test_ratio_is_one_exactly_with_one_update",
  ),
  Mutant(
    "the policy is its own reference",
    GRPO,
    "ref_BT = score(*state.reference, plain)\n    batch",
    "ref_BT = score(state.params, state.buffers, plain)\n    batch",
    f"{GRPO_TEST}::LossTest::test_loss_and_gradient_against_a_loop",
  ),
  Mutant(
    "k3 with the sign of its log-ratio turned",
    "r1jax/kl.py",
    "return jnp.expm1(log_ratio_BT) - log_ratio_BT",
    "return jnp.expm1(-log_ratio_BT) + log_ratio_BT",
    "tests/kl_test.py::GradientTest::"
    "test_k3_in_the_loss_is_the_forward_divergences",
  ),
  Mutant(
    "k2's importance weight carries a gradient",
    "r1jax/kl.py",
    "ratio_BT = jax.lax.stop_gradient(ratio_BT)",
    "ratio_BT = ratio_BT * 1.0",
    "tests/kl_test.py::GradientTest::"
    "test_importance_weighted_is_right_on_and_off_policy",
  ),
  Mutant(
    "microbatches are averaged, so their number matters",
    "r1jax/train.py",
    "jax.tree.map(jnp.add, grads, new)",
    "jax.tree.map(lambda old, add: (old + add) / 2, grads, new)",
    "tests/train_test.py::UpdateTest::test_microbatches_add_up_to_one",
  ),
  Mutant(
    "the balance loss is a mean over its microbatch",
    "r1jax/stages/lm.py",
    "return sums, jnp.sum(share_BT * balance_BT)",
    "return sums, jnp.mean(balance_BT)",
    "tests/stages/lm_test.py::CommonSumsTest::"
    "test_load_and_balance_do_not_depend_on_the_split",
  ),
  Mutant(
    "the balance loss is of the response's tokens alone",
    "r1jax/stages/lm.py",
    "share_BT = spread(mean_BT, batch.segments_BT)",
    "share_BT = mean_BT",
    "tests/stages/lm_test.py::CommonSumsTest::"
    "test_load_and_balance_do_not_depend_on_the_split",
  ),
  Mutant(
    "the fixed length is the longest response's",
    "r1jax/weighting.py",
    "keep_B.sum() * max_tokens",
    "keep_B.sum() * lengths_B.max(initial=1)",
    "tests/weighting_test.py::WeightingTest::test_worked_example",
  ),
  Mutant(
    "padding has expert load",
    "r1jax/models/moe.py",
    "real_BT = context.segments_BT != 0",
    "real_BT = context.segments_BT >= 0",
    "tests/models/moe_test.py::LayerTest::test_load_ignores_padding",
  ),
  Mutant(
    "an EOS ends the prompt",
    "r1jax/data/templates.py",
    "return [*_bos(tokenizer), *ids]",
    "return [*_bos(tokenizer), *ids, tokenizer.eos_id]",
    "tests/data/templates_test.py::TemplatesTest::"
    "test_one_bos_no_eos_in_a_prompt",
  ),
  Mutant(
    "two BOS begin the prompt",
    "r1jax/data/templates.py",
    "return [*_bos(tokenizer), *ids]",
    "return [*_bos(tokenizer), *_bos(tokenizer), *ids]",
    "tests/data/templates_test.py::TemplatesTest::"
    "test_one_bos_no_eos_in_a_prompt",
  ),
  Mutant(
    "the filter takes finished responses for truncated ones",
    GRPO,
    'row.sample.finish_reason != "length"',
    'row.sample.finish_reason != "eos"',
    f"{GRPO_TEST}::CollectTest::test_truncated_responses_are_left_out",
  ),
  Mutant(
    "a truncated response stays in the divisor",
    "r1jax/stages/lm.py",
    "weights_B = weigh(lengths_B, keep_B)",
    "weights_B = weigh(lengths_B, np.ones_like(keep_B))",
    f"{GRPO_TEST}::CollectTest::test_truncated_responses_are_left_out",
  ),
  Mutant(
    "a cut-off response may be right",
    "r1jax/records.py",
    'case "eos":',
    'case "eos" | "length":',
    "tests/rewards/accuracy_test.py::AccuracyTest::test_cut_off_is_no_answer",
  ),
  Mutant(
    "masked after the difference, so NaN reaches the gradient",
    "r1jax/losses.py",
    "return _where(mask_BT, logprobs_BT) - _where(mask_BT, old_logprobs_BT)",
    "return _where(mask_BT, logprobs_BT - old_logprobs_BT)",
    "tests/losses_test.py::LossesTest::test_no_nan_is_made_on_the_way",
  ),
  Mutant(
    "tokens are weighted by the id of their segment",
    GRPO,
    "loss = jnp.sum(batch.weights_BT * token_loss_BT)",
    "loss = jnp.sum(batch.weights_BT * batch.segments_BT * token_loss_BT)",
    f"{GRPO_TEST}::LossTest::test_loss_and_gradient_against_a_loop",
  ),
  Mutant(
    "minibatches keep the order of the questions",
    GRPO,
    "order = np.random.default_rng((s.seed, round)).permutation(n)",
    "order = np.arange(n)",
    f"{GRPO_TEST}::CollectTest::"
    "test_the_split_is_random_and_a_function_of_the_round",
  ),
  Mutant(
    "the policy is pushed away from what was rewarded",
    "r1jax/losses.py",
    "return -used_BT * advantages_BT, _stats(ratio_BT, changed_BT)",
    "return used_BT * advantages_BT, _stats(ratio_BT, changed_BT)",
    f"{GRPO_TEST}::LossTest::test_loss_and_gradient_against_a_loop",
  ),
  Mutant(
    "a resumed run reads its data from the start",
    "r1jax/training.py",
    'first_round = info["next_round"]',
    "first_round = 0",
    "tests/resume_test.py::ResumeTest::test_broken_between_two_updates",
  ),
  Mutant(
    "a resumed run starts with an empty optimizer",
    "r1jax/training.py",
    "    state, info = restored\n",
    "    found, info = restored\n"
    "    state = state._replace(params=found.params, buffers=found.buffers,\n"
    "      reference=found.reference, updates=found.updates)\n",
    "tests/resume_test.py::ResumeTest::test_broken_between_two_updates",
  ),
  Mutant(
    "a field is declared and never read",
    GRPO,
    "filter_truncated=config.filter_truncated,",
    "filter_truncated=False,",
    "tests/configs_test.py::ReadTest::test_every_field_is_read",
  ),
  Mutant(
    "the learning rate falls a hundred times too slowly",
    "r1jax/training.py",
    "total_updates = rounds * updates_per_round",
    "total_updates = 100 * rounds * updates_per_round",
    "tests/jobs_test.py::CardTest::test_learning_rates_of_the_card",
  ),
  Mutant(
    "the reference is never refreshed",
    "r1jax/train.py",
    "(round + 1) % every == 0:\n    fresh",
    "(round + 1) % every == every:\n    fresh",
    "tests/train_test.py::RunTest::"
    "test_the_reference_is_refreshed_after_its_rounds",
  ),
]
