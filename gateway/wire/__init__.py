"""OpenAI's wire format: what both the front end and the engine server read and write."""
