"""`python -m runtime.cli`: the command line without an installed `glm-plan` script."""

from runtime.cli.main import main

main()
