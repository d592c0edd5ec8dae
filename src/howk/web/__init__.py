"""The doors: HTTP comes in, rooms are called, problem+json goes out. No decision about a delivery is taken here."""
