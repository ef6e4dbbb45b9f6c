"""A plan as tables for the terminal."""

from typing import Any

import rich.console
import rich.table

from r1jax import plan

_FILE_WIDTH = 160
_GROUPS = ("weights", "decode weights", "moments", "reference", "gradients")


def show(made: dict[str, Any]) -> None:
  """Prints a plan: what it is of, memory, work, then what stands out."""
  console = rich.console.Console()
  if not console.is_terminal:  # A file is not cut off where a screen ends.
    console = rich.console.Console(width=_FILE_WIDTH)
  mesh = " x ".join(f"{k} {v}" for k, v in made["mesh"].items())
  console.print(
    f"{made['name']} on {made['target']}: {made['devices']} devices, mesh "
    f"{mesh}, {made['parameters']:,} parameters, kernels "
    f"{made['kernels']['attention']} and {made['kernels']['experts']}"
  )
  console.print(_memory(made))
  if any("estimate" in row for row in made["programs"]):
    console.print(_work(made))
    console.print(_collectives(made))
  for row in made["programs"]:
    for line in row["warnings"]:
      console.print(f"Warning: {row['name']}: {line}.")
    if "error" in row:
      console.print(f"{row['name']}: {row['error']}.")
    for each in row.get("temporaries", [])[:3]:
      console.print(
        f"{row['name']} makes {each['shape']}, {gb(each['bytes'])} GB, in "
        f"{each['op_name'] or each.get('opcode', '')}",
        highlight=False,
        markup=False,
      )
  over = plan.missing(made["programs"])
  limit = gb(made["hbm_bytes"])
  if any("total_bytes" in row for row in made["programs"]):
    verdict = "; ".join(over) if over else "Every program fits"
    names = {row["name"] for row in made["programs"]}
    left = [name for name in made["expected"] if name not in names]
    if left and not over:
      verdict = f"What was planned fits, without {', '.join(left)}"
    console.print(f"{verdict}; a device has {limit} GB.")
  secs = plan.round_secs(made)
  if secs and any(secs):
    console.print(
      f"A round at full length, an estimate: {_digits(secs[0])} s (all hidden "
      f"behind the slowest) to {_digits(secs[1])} s (nothing hidden)."
    )


def gb(size: float) -> str:
  """Bytes as 1e9, three digits."""
  value = size / 1e9
  return f"{value:.1f}" if abs(value) >= 10 else _digits(value)


def _digits(value: float) -> str:
  return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _table(title: str, *headings: str) -> rich.table.Table:
  table = rich.table.Table(title=title, box=None, padding=(0, 1, 0, 0))
  for i, heading in enumerate(headings):
    table.add_column(heading, justify="left" if i == 0 else "right")
  return table


def _memory(made):
  """Bytes on a device while each program runs."""
  groups = _groups(made)
  table = _table(
    "GB on a device, by hand from shapes and places; then the compiler's",
    *("program", *groups, "by hand"),
    *("arguments", "tiles", "activations", "total", "fits"),
  )
  for row in made["programs"]:
    held = {k: row["argument_bytes"].get(k, 0) for k in groups}
    for name, size in row["resident_bytes"].items():
      held[name] += size
    cells = [row["name"], *(gb(size) if size else "" for size in held.values())]
    cells.append(gb(sum(row["argument_bytes"].values())))
    compiler = row.get("compiler_bytes")
    if compiler:
      cells += [gb(compiler["arguments"]), gb(row["padding_bytes"])]
      cells.append(gb(compiler["temporaries"]))
    else:
      cells += ["", "", ""]
    if "total_bytes" in row:
      cells += [gb(row["total_bytes"]), "yes" if row["fits"] else "no"]
    table.add_row(*cells)
  return table


def _groups(made):
  found = dict.fromkeys(_GROUPS)
  for row in made["programs"]:
    found |= dict.fromkeys(row["argument_bytes"])
    found |= dict.fromkeys(row["resident_bytes"])
  used = {
    name
    for row in made["programs"]
    for part in (row["argument_bytes"], row["resident_bytes"])
    for name in part
  }
  return [name for name in found if name in used]


def _work(made):
  """Products, traffic and seconds of one call, or of one step of decoding."""
  table = _table(
    "One call (of decode one token a slot); seconds are estimates",
    *("program", "calls", "lower s", "compile s", "TFLOP a device"),
    *("GB moved", "products s", "memory s", "links s", "low s", "high s"),
  )
  for row in made["programs"]:
    cells = [row["name"], str(row["calls"]), str(row["lower_secs"])]
    cells.append(str(row.get("compile_secs", "")))
    cells.append(f"{row['flops'] / made['devices'] / 1e12:.3g}")
    if "estimate" in row:
      cells.append(gb(row["traffic_bytes"]))
      keys = ("products", "memory", "links", "low_secs", "high_secs")
      cells += [f"{row['estimate'][key]:.3g}" for key in keys]
    table.add_row(*cells)
  return table


def _collectives(made):
  table = _table(
    "Collectives of one call on a device",
    *("program", "kind", "axes", "group", "count", "GB"),
  )
  for row in made["programs"]:
    for each in row.get("collectives", ()):
      table.add_row(
        *(row["name"], each["kind"], each["axes"], str(each["group"])),
        *(str(each["count"]), gb(each["bytes"])),
      )
  return table
