"""``holdfast status``: targets, objects by kind, and the last runs."""

from __future__ import annotations

from collections.abc import Mapping

import click

from provision.cli.output import FORMAT, options, say, show, show_json, table


@click.command("status", help="Show targets, objects and the last runs.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", help=FORMAT)
def command(form: str) -> None:
    from provision import reconcile

    with reconcile.open_plane(options().specs, options().environment, cache=options().cache, note=say) as plane:
        found = plane.status()
    if form == "json":
        show_json(found)
        return
    show(f"plane {found['plane']}, environment {found['env']}\n\n")
    targets = [(t["system"], t["target"], t["version"], t["address"]) for t in found["targets"]]
    show(table(targets, ("system", "target", "version", "address")) + "\n")
    kinds = [(k["kind"], k["declared"], k["live"], k["owned"]) for k in found["kinds"]]
    show(table(kinds, ("kind", "declared", "live", "owned")))
    if found["runs"]:
        runs = [(r["started_at"], r["status"], _counts(r["summary"])) for r in found["runs"]]
        show("\n" + table(runs, ("run", "status", "summary")))


def _counts(summary: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {action}" for action, count in sorted(summary.items()) if count)
