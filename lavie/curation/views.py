"""The columns of a curation for users of DuckDB: OUT/table/views.sql, for `duckdb -init table/views.sql` in OUT.

1. A view for each stage that has been done, named as it, with the columns of all units. `unit` and `number`, the place
   of a row in its unit from 0, come first.
2. `clips`: the columns of all stages side by side, one row for each clip, with `keep` and `dropped_by` of the
   selection. Rows are joined by their places, for a film that lies twice below SRC has clips of equal names; columns
   that are of other clips than are cut now are null.
3. `selection`, and `rejected`, what each stage refused.

Paths in it are relative to OUT, so that OUT can be moved. From elsewhere, `SET file_search_path = 'OUT'` comes first.
"""

from pathlib import Path

from ..config.curate_score import SCORER
from ..files import write_if_new
from .stage import STAGES

VIEWS = Path("table/views.sql")
"""Where in OUT the file lies."""
HEAD = """\
-- The columns of this curation for DuckDB. Read it in the folder above: duckdb -init table/views.sql
-- From elsewhere: SET file_search_path = '<that folder>'; before it.
"""
JOINED = "(unit, number, clip)"
"""What the rows of two stages have in common."""


def write_views(out: Path) -> None:
    """Write the file for the stages that have columns now; one that says the same stays untouched.

    Args:
        out: the folder of a curation that has been selected.
    """
    write_if_new(out / VIEWS, views_of(out))


def views_of(out: Path) -> str:
    """Return the statements that make the views."""
    stages = _stages_with_columns(out)
    parts = [HEAD, *(_view(stage, _rows(f"table/{stage}/*.parquet")) for stage in stages)]
    selected = (
        "SELECT unit, row_number() OVER (PARTITION BY unit ORDER BY file_row_number) - 1 AS number,\n"
        "    * EXCLUDE (unit, file_row_number)\n"
        "FROM read_parquet('select/selection.parquet', file_row_number = true)"
    )
    parts.append(_view("selection", selected))
    others = [stage for stage in stages if stage not in ("scan", "cut")]
    joins = [f'LEFT JOIN "{stage}" USING {JOINED}' for stage in others]
    joins.append(f"LEFT JOIN (SELECT unit, number, clip, keep, dropped_by FROM selection) USING {JOINED}")
    parts.append(_view("clips", "\n".join(["SELECT *", "FROM cut", *joins])))
    if any((out / "rejected").glob("*/*.jsonl")):
        refused = (
            "SELECT parse_path(filename)[-2] AS stage, parse_filename(filename, true) AS unit, name, reason, detail\n"
            "FROM read_json('rejected/*/*.jsonl', format = 'newline_delimited', filename = true,\n"
            "    columns = {name: 'VARCHAR', reason: 'VARCHAR', detail: 'VARCHAR'})"
        )
        parts.append(_view("rejected", refused))
    return "\n".join(parts)


def _stages_with_columns(out: Path) -> list[str]:
    """Return the stages that some unit has, in their order; scorers of other packages come last."""
    found = [folder.name for folder in (out / "table").iterdir() if any(folder.glob("*.parquet"))]
    return [*(name for name in STAGES if name in found), *sorted(name for name in found if name.startswith(SCORER))]


def _rows(files: str) -> str:
    """Return the query of all columns in the files of a stage."""
    return (
        "SELECT parse_filename(filename, true) AS unit, file_row_number AS number,\n"
        "    * EXCLUDE (filename, file_row_number)\n"
        f"FROM read_parquet('{files}', filename = true, file_row_number = true)"
    )


def _view(name: str, query: str) -> str:
    """Return the statement that makes a view of a query."""
    return f'CREATE OR REPLACE VIEW "{name}" AS\n{query};\n'
