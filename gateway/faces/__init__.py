"""The front end's HTTP faces: each handler parses, delegates to the cascade, and writes."""
