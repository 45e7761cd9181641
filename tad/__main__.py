"""`python -m tad` is the `tad` command."""

from tad.commands.cli import main

raise SystemExit(main())
