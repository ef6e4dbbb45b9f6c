from absl.testing import absltest, parameterized

from r1jax import plan_hlo, plan_read

SIZES = dict(data=1, fsdp=2, expert=4, tensor=1)

# A scan of six turns with a gather cut into two steps, a fused reduce-scatter
# and a permutation; a loop of passes, which no constant bounds, with an
# all-to-all; an all-reduce of a padded part; and products of experts.
TEXT = """
HloModule jit_step, is_scheduled=true, entry_computation_layout={()->f32[]}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%gather.1 (p: bf16[4,8]) -> bf16[32,8] {
  %p = bf16[4,8]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %all-gather.1 = bf16[32,8]{1,0} all-gather(%p), channel_id=3, \
replica_groups=[1,8]<=[8], dimensions={0}, frontend_attributes={chain_id="1"}
}

%gather.2 (p: bf16[4,8]) -> bf16[32,8] {
  %p.2 = bf16[4,8]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %all-gather.2 = bf16[32,8]{1,0} all-gather(%p.2), channel_id=3, \
replica_groups=[1,8]<=[8], dimensions={0}, frontend_attributes={chain_id="1"}
}

%all-reduce-scatter.1 (p: f32[16,8]) -> f32[8,8] {
  %p.3 = f32[16,8]{1,0} parameter(0)
  %all-reduce.1 = f32[16,8]{1,0} all-reduce(%p.3), channel_id=4, \
replica_groups={{0,4},{1,5},{2,6},{3,7}}, to_apply=%add
  %zero.1 = s32[] constant(0)
  ROOT %slice.1 = f32[8,8]{1,0} dynamic-slice(%all-reduce.1, %zero.1, \
%zero.1), dynamic_slice_sizes={8,8}
}

%body (state: (s32[], f32[6,16,8])) -> (s32[], f32[6,16,8]) {
  %state = (s32[], f32[6,16,8]{2,1,0}) parameter(0)
  %index = s32[] get-tuple-element(%state), index=0
  %stack = f32[6,16,8]{2,1,0} get-tuple-element(%state), index=1
  %part = bf16[4,8]{1,0} constant(0)
  %one = bf16[32,8]{1,0} fusion(%part), kind=kCustom, calls=%gather.1
  %two = bf16[32,8]{1,0} fusion(%part), kind=kCustom, calls=%gather.2
  %layer = f32[1,16,8]{2,1,0} dynamic-slice(%stack, %index, %index, %index), \
dynamic_slice_sizes={1,16,8}
  %wide = f32[16,8]{1,0} bitcast(%layer)
  %small = f32[8,8]{1,0} fusion(%wide), kind=kCustom, \
calls=%all-reduce-scatter.1
  %moved = f32[8,8]{1,0} collective-permute(%small), channel_id=9, \
source_target_pairs={{0,1},{1,0}}
  ROOT %next = (s32[], f32[6,16,8]{2,1,0}) tuple(%index, %stack)
}

%until (state: (s32[], f32[6,16,8])) -> pred[] {
  %six = s32[]{:T(128)} constant(6)
  %state.2 = (s32[], f32[6,16,8]{2,1,0}) parameter(0)
  %index.2 = s32[] get-tuple-element(%state.2), index=0
  ROOT %less = pred[] compare(%index.2, %six), direction=LT
}

%pass (state: (s32[], s32[], f32[4,8])) -> (s32[], s32[], f32[4,8]) {
  %pass.state = (s32[], s32[], f32[4,8]{1,0}) parameter(0)
  %rows = f32[4,8]{1,0} get-tuple-element(%pass.state), index=2
  %all-to-all.1 = f32[4,8]{1,0} all-to-all(%rows), channel_id=5, \
replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}
  ROOT %pass.next = (s32[], s32[], f32[4,8]{1,0}) tuple(%rows, %rows, \
%all-to-all.1)
}

%passes (state: (s32[], s32[], f32[4,8])) -> pred[] {
  %passes.state = (s32[], s32[], f32[4,8]{1,0}) parameter(0)
  %turn = s32[] get-tuple-element(%passes.state), index=0
  %most = s32[] get-tuple-element(%passes.state), index=1
  ROOT %before = pred[] compare(%turn, %most), direction=LT
}

%pad (p: f32[8,8], at: s32[]) -> f32[64,8] {
  %p.4 = f32[8,8]{1,0} parameter(0)
  %at = s32[] parameter(1)
  %zero = f32[] constant(0)
  %zeros = f32[64,8]{1,0} broadcast(%zero), dimensions={}
  ROOT %padded = f32[64,8]{1,0} dynamic-update-slice(%zeros, %p.4, %at, %at)
}

ENTRY %main (x: f32[8,8], y: f32[5,14]) -> f32[] {
  %x = f32[8,8]{1,0} parameter(0)
  %y = f32[5,14]{1,0:T(8,128)} parameter(1)
  %start = (s32[], f32[6,16,8]{2,1,0}) tuple(%x, %x)
  %loop = (s32[], f32[6,16,8]{2,1,0}) while(%start), condition=%until, \
body=%body
  %sent = (s32[], s32[], f32[4,8]{1,0}) while(%start), condition=%passes, \
body=%pass
  %id = u32[] partition-id()
  %part.2 = f32[64,8]{1,0} fusion(%x, %id), kind=kLoop, calls=%pad
  %view = f32[64,8]{1,0} bitcast(%part.2)
  %all-reduce.2 = f32[64,8]{1,0} all-reduce(%view), channel_id=6, \
replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  %dense = f32[2,8,8]{2,1,0} convolution(%x, %x), metadata={op_name=\
"jit(step)/transpose(jvp())/moe/ragged_dot_general"}
  %kernel = f32[8,8]{1,0} custom-call(%x), backend_config={"body": {
"line": 1
}}, metadata={op_name="jit(step)/kernel"}
  %cache = f32[8,8]{1,0} copy(%x)
  %close = f32[8,8]{1,0:S(1)} copy(%x)
  ROOT %total = f32[] reduce(%all-reduce.2, %x), to_apply=%add
}
"""


def module():
  return plan_hlo.parse(TEXT)


class ModuleTest(parameterized.TestCase):
  def test_loops_count_their_turns(self):
    runs = module().runs
    self.assertEqual(runs["main"], 1)
    self.assertEqual(runs["body"], 6)
    self.assertEqual(runs["gather.1"], 6)
    self.assertEqual(runs["pass"], 1)  # No constant says how often.
    self.assertNotIn("unheard", runs)

  def test_turns_that_the_text_says(self):
    text = TEXT.replace(
      "condition=%passes,",
      'backend_config={"known_trip_count":{"n":"9"}}, condition=%passes,',
    )
    self.assertEqual(plan_hlo.parse(text).runs["pass"], 9)

  def test_condition_of_two_comparisons_counts_once(self):
    text = TEXT.replace(
      "  ROOT %less",
      "  %more = pred[] compare(%six, %six), direction=GT\n  ROOT %less",
    )
    self.assertEqual(plan_hlo.parse(text).runs["body"], 1)

  def test_padded_and_on_chip_arrays(self):
    entry = {x.name: x for x in module().computations["main"]}
    [padded] = entry["y"].arrays
    self.assertEqual(padded.bare, 5 * 14 * 4)
    self.assertEqual(padded.size, 8 * 128 * 4)  # A tile of 8 x 128.
    self.assertEqual(plan_read.padding(module()), padded.size - padded.bare)
    self.assertEqual(entry["close"].size, 0)
    self.assertEqual(entry["cache"].size, 8 * 8 * 4)


class GroupTest(parameterized.TestCase):
  @parameterized.parameters(
    ("replica_groups={{0,4},{1,5}}, x", (0, 4), "fsdp"),
    ("replica_groups={{0,1,2,3},{4,5,6,7}}, x", (0, 1, 2, 3), "expert"),
    ("replica_groups=[2,4]<=[8], x", (0, 1, 2, 3), "expert"),
    ("replica_groups=[4,2]<=[2,4]T(1,0), x", (0, 4), "fsdp"),
    ("replica_groups=[1,8]<=[8], x", tuple(range(8)), "fsdp+expert"),
    ("replica_groups=mesh['a'=2,'b'=4] {'b'}, x", (0, 1, 2, 3), "expert"),
    ("replica_groups=mesh['a'=2,'b'=4] {'a'}, x", (0, 4), "fsdp"),
    ("replica_groups=mesh['a'=8] {'a':(1)2}, x", (0, 4), "fsdp"),
    ("replica_groups=mesh['a'=8] {'a':(2)4}, x", (0, 1, 2, 3), "expert"),
    (
      "replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}, x",
      (0, 4),
      "fsdp",
    ),
    ("channel_id=1", tuple(range(8)), "fsdp+expert"),
  )
  def test_first_group(self, text, group, axes):
    self.assertEqual(plan_hlo.first_group(text, 8), group)
    self.assertEqual(plan_hlo.axes_of(group, SIZES), axes)


class ReadTest(parameterized.TestCase):
  def test_collectives(self):
    found = {x.kind: x for x in plan_read.collectives(module(), SIZES)}
    # Two steps of one gather, six times.
    gather = found["all-gather"]
    self.assertEqual((gather.axes, gather.group), ("fsdp+expert", 8))
    self.assertEqual((gather.count, gather.bytes), (6, 6 * 32 * 8 * 2))
    scatter = found["reduce-scatter (fused)"]
    self.assertEqual((scatter.axes, scatter.group), ("fsdp", 2))
    self.assertEqual((scatter.count, scatter.bytes), (6, 6 * 16 * 8 * 4))
    exchange = found["all-to-all"]
    self.assertEqual((exchange.axes, exchange.count), ("expert", 1))
    self.assertEqual(found["collective-permute"].axes, "expert")
    self.assertEqual(found["all-reduce"].bytes, 64 * 8 * 4)
    sizes = [x.bytes for x in plan_read.collectives(module(), SIZES)]
    self.assertEqual(sizes, sorted(sizes, reverse=True))

  @parameterized.parameters(
    ("all-gather", 8, 875.0),
    ("all-reduce", 8, 1750.0),
    ("all-to-all", 4, 750.0),
    ("collective-permute", 2, 1000.0),
    ("all-gather", 1, 0.0),
  )
  def test_wire_bytes(self, kind, group, sent):
    row = plan_read.Collective(kind, "fsdp", group, 1, 1000)
    self.assertEqual(plan_read.wire_bytes(row), sent)

  def test_warnings(self):
    gathered, dense, copied = plan_read.warnings(
      module(), frozenset([8 * 8 * 4])
    )
    self.assertIn("1 all-gathers are done as all-reduce", gathered)
    self.assertIn("all-reduce.2", gathered)
    self.assertIn("1 gradients of experts are dense products", dense)
    self.assertIn("f32[2,8,8]", dense)
    self.assertIn("copied 1 times", copied)

  def test_no_warnings_of_what_is_well(self):
    text = TEXT.replace("all-reduce(%view)", "all-reduce(%x)")
    text = text.replace("ragged_dot_general", "dot_general")
    self.assertEqual(plan_read.warnings(plan_hlo.parse(text)), [])

  @parameterized.parameters(
    # Of a product, both operands and the result.
    ("f32[4,8]{1,0} dot(%x, %x)", 8 * 8 * 4 * 2 + 4 * 8 * 4),
    # Of a slice, what is read of it and written.
    ("f32[1,8]{1,0} dynamic-slice(%x, %i, %i)", 2 * 8 * 4),
    # Of an update in place, the new row.
    ("f32[8,8]{1,0} dynamic-update-slice(%x, %row, %i, %i)", 2 * 8 * 4),
    # Of a fusion that slices its operand, the slice.
    ("f32[1,8]{1,0} fusion(%x, %i), kind=kLoop, calls=%cut", 2 * 8 * 4 + 4),
    ("f32[8,8]{1,0} fusion(%x, %row, %i), kind=kLoop, calls=%put", 2 * 32 + 4),
    ("f32[64]{0} bitcast(%x)", 0),
  )
  def test_traffic(self, line, moved):
    text = f"""
%cut (p: f32[8,8], i: s32[]) -> f32[1,8] {{
  %p = f32[8,8]{{1,0}} parameter(0)
  %i.1 = s32[] parameter(1)
  ROOT %cut.1 = f32[1,8]{{1,0}} dynamic-slice(%p, %i.1, %i.1)
}}

%put (p: f32[8,8], row: f32[1,8], i: s32[]) -> f32[8,8] {{
  %p.2 = f32[8,8]{{1,0}} parameter(0)
  %row.2 = f32[1,8]{{1,0}} parameter(1)
  %i.2 = s32[] parameter(2)
  ROOT %put.1 = f32[8,8]{{1,0}} dynamic-update-slice(%p.2, %row.2, %i.2, %i.2)
}}

ENTRY %main (x: f32[8,8], row: f32[1,8], i: s32[]) -> f32[] {{
  %x = f32[8,8]{{1,0}} parameter(0)
  %row = f32[1,8]{{1,0}} parameter(1)
  %i = s32[] parameter(2)
  ROOT %made = {line}
}}
"""
    self.assertEqual(plan_read.traffic(plan_hlo.parse(text)), moved)

  def test_temporaries_are_largest_first(self):
    found = plan_read.temporaries(module())
    self.assertEqual(found[0].shape, "f32[64,8]")
    self.assertNotIn("f32[6,16,8]", [x.shape for x in found])


if __name__ == "__main__":
  absltest.main()
