"""Nouns and decisions. Pure functions of what they are given: no I/O, no clock, no randomness."""
