"""Sending over HTTP/1.1: a thin transport over asyncio and httptools, with the address guard on the dial."""
