"""The commands `lavie ablate ...`: the paper's ablations on rendered clips, and the page that they make."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from ..config.shipped import find_config
from ..errors import ConfigError
from ..files import require_free, require_writable
from .results import SEEDS
from .runs import Overwrite

app = typer.Typer(
    name="ablate", help="The paper's ablations on rendered clips, with intervals over seeds.", no_args_is_help=True
)

Out = Annotated[
    Path, typer.Argument(help="Folder of data, runs and results.jsonl; the same command goes on where it was cut.")
]
Seeds = Annotated[str, typer.Option(help="Seeds, the same for every arm, as 0-4 or 0,2,7.")]
MOST_SEEDS = 1000
"""Seeds of a call, at most."""
Config = Annotated[
    Path | None,
    typer.Option(help="The config that all arms change, of stage base. Default: smoke/base.yaml, for a CPU."),
]
Steps = Annotated[
    int | None,
    typer.Option(
        min=1, max=10**9, help="Steps of an arm. Default: max_train_steps of --config, or the ablation's own."
    ),
]
Draws = Annotated[int, typer.Option(min=1, max=1000, help="Samples, as a multiple of the ablation's own number.")]
Arms = Annotated[str, typer.Option(help="Only these arms and what they start from, as rope,absolute. Default: all.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="A key for all arms, as train_batch_size=32.")]


def _command(name: str, help_text: str) -> None:
    """Add the command of one ablation."""

    @app.command(name, help=help_text)
    def command(
        out: Out,
        seeds: Seeds = "0-4",
        steps: Steps = None,
        config: Config = None,
        draws: Draws = 1,
        arms: Arms = "",
        changes: Set = None,
    ) -> None:
        from ..config.load import load_config
        from ..evaluation.ablation.configs import BASE, Sizes
        from ..evaluation.ablation.run import run
        from ..evaluation.ablation.tables import ABLATIONS

        ablation = ABLATIONS[name]
        path = find_config(config or BASE, "--config")
        overrides = tuple(changes or ())
        if steps is None:
            steps = load_config(path, overrides).max_train_steps if config else ablation.steps
        chosen = [arm.strip() for arm in arms.split(",")] if arms else []
        results = run(
            ablation,
            Sizes(path, steps, overrides, draws),
            out,
            seeds_of(seeds),
            arms=chosen,
            tell=lambda text: typer.echo(text, err=True),
        )
        _print_findings(ablation, results)


for _name, _help in {
    "table6": "Table 6: RoPE, absolute positions and space-time attention, after equal steps.",
    "table7": "Table 7: RoPE and absolute positions on clips of double the trained length.",
    "fig10": "Figure 10: a short second training on clean clips.",
    "fig11": "Figure 11: all weights on clips, temporal weights on clips, or joint training with images.",
}.items():
    _command(_name, _help)


def seeds_of(text: str) -> list[int]:
    """Return the seeds that a text such as "0-4" or "0,2,7" names, each once.

    Raises:
        ConfigError: it names none, more than MOST_SEEDS, one that no run can have, or is no such text.
    """
    found: dict[int, None] = {}
    for part in text.split(","):
        ends = re.fullmatch(r"\s*([0-9]{1,19})(?:-([0-9]{1,19}))?\s*", part)
        first, last = (int(ends[1]), int(ends[2] or ends[1])) if ends else (1, 0)
        if last < first:
            raise ConfigError(f"--seeds {text}: wanted numbers and ranges, as 0-4 or 0,2,7")
        if last > SEEDS["max"]:
            raise ConfigError(f"--seeds {text}: wanted numbers up to {SEEDS['max']}")
        if len(found) + last - first >= MOST_SEEDS:
            raise ConfigError(f"--seeds {text}: wanted {MOST_SEEDS} seeds or fewer: each is a training of every arm")
        found |= dict.fromkeys(range(first, last + 1))
    return list(found)


def _print_findings(ablation: Any, results: Any) -> None:
    """Print the verdicts on the claims."""
    from ..evaluation.ablation.analysis import analyse

    for finding in analyse(ablation, results):
        effect = f" (effect {finding.difference.mean:+.4g})" if finding.difference else ""
        typer.echo(f"{finding.verdict}: {finding.claim.text}{effect}: {finding.why}")


@app.command("page")
def page_command(
    results: Annotated[
        list[Path] | None, typer.Argument(help="Folders of ablations, or results.jsonl files. None: a page without.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The page, a .md; plots and results go into a folder of its name.")] = Path(
        "docs/ablations.md"
    ),
    overwrite: Overwrite = False,
) -> None:
    """Write the page of all ablations: claims, verdicts, tables and plots; what has no results is said not to be run.

    Files .md in the folder beside the page are sections of it that were written by hand.
    """
    from ..evaluation.ablation.page import write_page
    from ..evaluation.ablation.results import gather

    if out.suffix != ".md":
        raise ConfigError(f"--out {out}: wanted a .md")
    require_free(out, overwrite=overwrite)
    require_writable(out, out.with_suffix("") / "results")
    write_page(gather(results or []), out)
    typer.echo(out)
