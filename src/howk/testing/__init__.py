"""Shipped test kit: conformance suites a backend author subclasses, and a simulated receiver."""
