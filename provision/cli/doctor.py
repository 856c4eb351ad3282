"""``holdfast doctor``: reachability, versions and missing privileges, with the exact GRANTs."""

from __future__ import annotations

import click

from provision.cli import exits
from provision.cli.output import FORMAT, options, say, show, show_json


@click.command("doctor", help="Test reachability, versions and privileges.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", help=FORMAT)
def command(form: str) -> int:
    from provision.reconcile import doctor

    findings = doctor.examine(options().specs, options().environment, cache=options().cache, note=say)
    if form == "json":
        show_json([f._asdict() for f in findings])
    else:
        for finding in findings:
            show(f"{'ok  ' if finding.is_well else 'FAIL'}  {finding.subject}: {finding.message}\n")
            if finding.remedy:
                show(f"      {finding.remedy}\n")
    if any(f.unreachable for f in findings):
        return exits.UNREACHABLE
    return exits.DONE if all(f.is_well for f in findings) else exits.FAILED
