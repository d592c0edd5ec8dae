"""The engine that needs nothing beside it: log and hot state on SQLite in one data directory."""
