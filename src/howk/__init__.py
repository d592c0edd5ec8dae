"""howk takes webhooks in and gets them delivered: at least once, and signed."""
