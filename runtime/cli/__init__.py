"""The glm-plan command: one small file per subcommand."""
