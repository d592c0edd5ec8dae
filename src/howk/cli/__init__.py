"""The command line over the API and the runtime."""
