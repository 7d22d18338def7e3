"""The bytes: a relay on asyncio protocols between clients and engines."""
