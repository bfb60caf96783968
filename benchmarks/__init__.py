"""Measurements and gates; nothing here is needed to use the packages."""
