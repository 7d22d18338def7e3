"""What a doctor's reader makes of answers."""

from __future__ import annotations

import httpx

from controller.doctor import look
from operators import access


async def test_time_is_the_servers() -> None:
    """Of the last answer that tells it; a server that tells none, or nonsense, leaves what is known."""
    dates = iter([{}, {"Date": "Mon, 30 Nov 2026 03:00:00 GMT"}, {"Date": "soon"}])
    reader = look.Reader(access.Access("http://127.0.0.1:1"))
    await reader.close()
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json={}, headers=next(dates)))
    reader._http = httpx.AsyncClient(base_url="http://127.0.0.1:1", transport=transport)
    known = []
    for _ in range(3):
        await reader.ask("/version")
        known.append(reader.server_s)
    await reader.close()
    assert known == [None, 1796007600.0, 1796007600.0]
