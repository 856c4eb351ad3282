"""``python -m provision.cli``: the holdfast command without its script."""

from provision.cli.main import main

main()
