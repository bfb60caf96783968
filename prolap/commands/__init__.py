"""Subcommands of the command line, one file each; heavy imports happen when one runs."""
