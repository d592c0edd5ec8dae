"""The corridor: the journal at the log's front, the stages that loop, and the rooms that decide."""
