"""Engines behind the ports. Only `runtime.wiring` names them, and they do not know each other."""
