"""What each shipped kernel takes from the chip: registers, spills, shared memory, access widths, tensor cores.

    python -m lavie.kernels.resources            compare with resources.csv beside this file
    python -m lavie.kernels.resources --quick    the same, for the first case of each op alone
    python -m lavie.kernels.resources sm_86 ...  some chips alone, without the table: spills and what does not fit
    python -m lavie.kernels.resources --write    renew the table

No GPU is needed: the kernels are compiled for every chip of `CHIPS`, or for those that are named, as `CASES` would
launch them; the machine code is read.
"""

import csv
import itertools
import multiprocessing
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from .cases import CASES
from .launch import CHIPS, Chip, Launch, recording

TABLE = Path(__file__).with_name("resources.csv")
OPS = tuple(CASES)
TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.float64: "fp64"}
TYPES |= {torch.int32: "i32", torch.int64: "i64"}
NVIDIA = Path(triton.__file__).parent / "backends/nvidia/bin"
KEYS = ("op", "case", "kernel", "variant", "arch")
COUNTS = ("registers", "stack", "shared", "wide", "accesses", "local", "hmma", "hgmma")

Row = dict[str, Any]


def arch_of(chip: Chip) -> str:
    """Return NVIDIA's name of a chip's architecture, as "sm_90"."""
    return f"sm_{chip.capability[0]}{chip.capability[1]}"


SHARED = {arch_of(chip): chip.shared for chip in CHIPS.values()}
"""Bytes of shared memory that a program may have, by architecture."""
GATED = tuple(SHARED)
"""The architectures of the table."""


def compile_launch(launch: Launch, chip: Chip) -> Any:
    """Return the launch's kernel, compiled as Triton's just-in-time compiler would specialise it.

    Three kinds of arguments: compile-time constants, None and 1 among them; tensors, whose addresses are multiples of
    16; and numbers, of which multiples of 16 are noted unless the kernel is not to be specialised for them.
    """
    names = launch.kernel.arg_names
    values = {**dict(zip(names, launch.args, strict=False)), **launch.constants}
    constexpr = {p.name for p in launch.kernel.params if p.is_constexpr}
    general = {p.name for p in launch.kernel.params if p.do_not_specialize}

    # What the just-in-time compiler would find out about each argument.
    signature, constants, attributes = {}, {}, {}
    for i, name in enumerate(names):
        value = values[name]
        if name in constexpr or value is None or (isinstance(value, int) and value == 1 and name not in general):
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name] = "*" + TYPES[value.dtype]
            attributes[(i,)] = [["tt.divisibility", 16]]
        elif isinstance(value, int):
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % 16 == 0 and name not in general:
                attributes[(i,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "fp32"

    target = GPUTarget("cuda", 10 * chip.capability[0] + chip.capability[1], 32)
    options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages}
    return triton.compile(ASTSource(launch.kernel, signature, constants, attributes), target=target, options=options)


def variant(launch: Launch) -> str:
    """Return a launch's configuration in words: constants, warps, stages, and the type of its first tensor."""
    constants = [f"{name}={value}" for name, value in launch.constants.items()]
    return " ".join([TYPES[launch.args[0].dtype], *constants, f"w{launch.num_warps}", f"s{launch.num_stages}"])


def read_machine_code(compiled: Any) -> Row:
    """Return counts from the resource table and the instructions of a compiled kernel.

    `wide`: 128-bit accesses of global memory (loads, stores, asynchronous copies) of all `accesses`.
    """
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _tool("cuobjdump", "--dump-resource-usage", file.name)
        code = disassembled(file.name)
    accesses = re.findall(r"\b(LDG|STG|LDGSTS)(\.[\w.]+)", code)
    return {
        "registers": int(re.findall(r"REG:(\d+)", usage)[0]),
        "stack": int(re.findall(r"STACK:(\d+)", usage)[0]),
        "shared": compiled.metadata.shared,
        "wide": sum("128" in width for _, width in accesses),
        "accesses": len(accesses),
        "local": len(re.findall(r"\b(?:LDL|STL)\b", code)),
        "hmma": len(re.findall(r"\bHMMA\b", code)),
        "hgmma": len(re.findall(r"\bHGMMA\b", code)),
    }


def disassembled(path: str, *options: str) -> str:
    """Return the instructions of a compiled kernel; "-hex": with their encodings."""
    return _tool("nvdisasm", "-c", "-ndf", *options, path)  # no analysis of the data flow


def _tool(name: str, *arguments: str) -> str:
    """Return what one of the CUDA tools that come with Triton prints."""
    return subprocess.run([NVIDIA / name, *arguments], check=True, capture_output=True, text=True).stdout


def measure(op: str, chip: Chip, most: int | None = None) -> list[Row]:
    """Return a row per kernel and configuration that the op's CASES, at most so many, launch on the chip."""
    rows: dict[tuple[str, ...], Row] = {}
    for case, run in itertools.islice(CASES[op].items(), most):
        with recording(chip) as noted:
            run()
        for launch in noted.launches:
            key = {
                "op": op,
                "case": case,
                "kernel": launch.kernel.__name__,
                "variant": variant(launch),
                "arch": arch_of(chip),
            }
            unique = tuple(key[k] for k in KEYS if k != "case")
            if unique not in rows:
                rows[unique] = {**key, **read_machine_code(compile_launch(launch, chip))}
    return list(rows.values())


def measure_all(ops: tuple[str, ...], archs: tuple[str, ...], quick: bool) -> Iterator[Row]:
    """Yield the rows of several ops on some architectures, compiled in as many processes as there are cores."""
    chips = [chip for chip in CHIPS.values() if arch_of(chip) in archs]
    parts = [(op, chip, 1 if quick else None) for chip in chips for op in ops]
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from itertools.chain.from_iterable(pool.map(measure, *zip(*parts, strict=True)))


def faults(row: Row) -> list[str]:
    """Return what the kernel of a row does that no shipped kernel may do."""
    name, limit = " ".join(str(row[k]) for k in KEYS), SHARED[row["arch"]]
    found = [f"{name}: spills"] if row["stack"] or row["local"] else []
    if row["shared"] > limit:  # it would not even start
        found.append(f"{name}: {row['shared']} bytes of shared memory, and the chip has {limit}")
    return found


def worse(row: Row, before: Row) -> list[str]:
    """Return where `row` takes more than the committed row, or accesses memory in narrower pieces."""
    name = " ".join(str(row[k]) for k in KEYS)
    more = [f"{name}: {k} {before[k]} -> {row[k]}" for k in ("registers", "shared") if row[k] > before[k]]
    if row["wide"] * before["accesses"] < before["wide"] * row["accesses"]:
        more.append(
            f"{name}: 128-bit accesses {before['wide']}/{before['accesses']} -> {row['wide']}/{row['accesses']}"
        )
    return more + [f"{name}: no {k} any more" for k in ("hmma", "hgmma") if before[k] and not row[k]]


def read_table() -> tuple[str, dict[tuple[str, ...], Row]]:
    """Return the Triton version that made resources.csv, and its rows by key."""
    with TABLE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    table = {tuple(row[k] for k in KEYS): {**row, **{k: int(row[k]) for k in COUNTS}} for row in rows}
    return rows[0]["triton"], table


def write_table(rows: list[Row]) -> None:
    """Write resources.csv anew."""
    with TABLE.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["triton", *KEYS, *COUNTS], lineterminator="\n")
        writer.writeheader()
        writer.writerows({"triton": triton.__version__, **row} for row in rows)


def main(arguments: list[str]) -> int:
    """Compile the kernels, print a line for each and then the problems, and return 1 if there are any, else 0.

    1. A kernel that spills registers, or wants more shared memory than the chip has, is a problem in every run.
    2. A run over all ops and GATED compares with the table if the installed Triton is the version that made it: a
       kernel that got worse (see `worse`), a kernel without a row, or, without --quick, a row without a kernel is a
       problem.
    3. With --write the table is written anew and nothing is compared.

    Args:
        arguments: names of ops, all if there are none, and of architectures, GATED if there are none; --quick or
            --write, as the module describes them.
    """
    archs = tuple(a for a in arguments if a in SHARED) or GATED
    ops = tuple(a for a in arguments if not a.startswith("-") and a not in SHARED) or OPS
    rows, problems, quick = [], [], "--quick" in arguments
    for row in measure_all(ops, archs, quick):
        rows.append(row)
        problems += faults(row)
        print(*(row[k] for k in KEYS), *(f"{k}={row[k]}" for k in COUNTS), flush=True)
    if "--write" in arguments:
        write_table(rows)
    elif ops == OPS and archs == GATED:
        version, table = read_table()
        for row in rows if version == triton.__version__ else []:
            before = table.pop(tuple(row[k] for k in KEYS), None)
            problems += worse(row, before) if before else [f"{' '.join(row[k] for k in KEYS)}: not in {TABLE.name}"]
        if version == triton.__version__ and not quick:
            problems += [f"{' '.join(key)}: in {TABLE.name}, but no longer launched" for key in table]
    print(*problems, f"{len(rows)} kernels, {len(problems)} problems", sep="\n")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
