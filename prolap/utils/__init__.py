"""What every room may use: seeding, files, progress, environment. Imports neither torch nor another room by itself."""

__version__ = "0.1.0"
