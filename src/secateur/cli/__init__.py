"""The command line; :mod:`secateur.cli.main` is where it starts."""
