"""A renewed certificate is taken into use without a restart."""

from __future__ import annotations

import asyncio
import pathlib
import ssl

from cryptography import x509

from penstock.runtime import clock as clocks
from router.server import certificates as under_test
from tests.support import certificates, gateways


async def shown(port: int) -> int:
    """Serial number of the certificate that a new connection sees."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    raw = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return x509.load_der_x509_certificate(raw).serial_number


async def test_new_connections_see_the_renewed_certificate(tmp_path: pathlib.Path) -> None:
    """A pair that fits is taken within a look; one that does not leaves the last; open connections stay."""
    ca = certificates.Authority(tmp_path)
    files = ca.issue("localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)

    server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    renewal = under_test.Renewal(files.cert, files.key, lambda: context, clocks.SystemClock(), look_s=0.02)
    await renewal.start()
    first = await shown(port)
    trusting = ssl.create_default_context(cafile=str(ca.file))
    reader, writer = await asyncio.open_connection("localhost", port, ssl=trusting)

    ca.issue("localhost")
    await gateways.until(lambda: _differs(port, first))
    second = await shown(port)

    # A new certificate with the key of the one before it.
    key = files.key.read_bytes()
    ca.issue("localhost")
    files.key.write_bytes(key)
    for _ in range(5):
        await asyncio.sleep(0.02)
        assert await shown(port) == second, "half a pair is not taken"
    files.cert.unlink()
    ca.issue("localhost")
    await gateways.until(lambda: _differs(port, second))

    writer.write(b"still here\n")
    assert await reader.readline() == b"still here\n"
    writer.close()
    await renewal.stop()
    server.close()


async def _differs(port: int, serial: int) -> bool:
    return await shown(port) != serial
