"""`python -m tad` is the `tad` command."""

from tad.cli import main

raise SystemExit(main())
