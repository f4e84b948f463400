"""What every revision does: run the SQL file beside it."""

from pathlib import Path

from alembic import op


def run_sql_of(revision: str) -> None:
    """Run the SQL file that has the name of a revision's; the driver takes it as one script."""
    script = Path(revision).with_suffix(".sql").read_text()
    op.get_bind().exec_driver_sql(script.replace("%", "%%"))


def refuse_downgrade() -> None:
    """A ledger is not undone."""
    raise NotImplementedError("restore a backup instead")
