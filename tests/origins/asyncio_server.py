"""An asyncio server: one thread, level-triggered readiness, back pressure by drain().

asyncio_server.py HOST PORT
"""
import asyncio
import hashlib
import sys

import contract


async def read_body(reader, fields, sink):
    if fields.get("transfer-encoding", "").lower() == "chunked":
        while True:
            size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
            if size == 0:
                while await reader.readuntil(b"\r\n") != b"\r\n":
                    pass
                return
            await copy(reader, size, sink)
            assert await reader.readexactly(2) == b"\r\n"
    await copy(reader, int(fields.get("content-length", 0)), sink)


async def copy(reader, left, sink):
    while left:
        piece = await reader.read(min(left, contract.STEP))
        if not piece:
            raise asyncio.IncompleteReadError(b"", left)
        left -= len(piece)
        await sink(piece)


async def nothing(_):
    pass


async def serve(reader, writer):
    async def write(piece):
        writer.write(piece)
        await writer.drain()

    async def chunk(piece):
        await write(b"%x\r\n%b\r\n" % (len(piece), bytes(piece)))

    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            line, *rest = head[:-4].split("\r\n")
            method, target, _ = line.split(" ", 2)
            pairs = [field.split(":", 1) for field in rest]
            fields = {name.lower(): value.strip() for name, value in pairs}
            if fields.get("expect", "").lower() == "100-continue":
                await write(b"HTTP/1.1 100 Continue\r\n\r\n")
            what, _, n = target.strip("/").partition("/")
            n = int(n) if n.isdigit() else 0
            if what == "sink":
                digest, length = hashlib.sha256(), 0

                async def take(piece):
                    nonlocal length
                    length += len(piece)
                    digest.update(piece)

                await read_body(reader, fields, take)
                text = b"%d %b\n" % (length, digest.hexdigest().encode())
                await write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text))
            elif what == "echo":
                await write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                await read_body(reader, fields, chunk)
                await write(b"0\r\n\r\n")
            else:
                await read_body(reader, fields, nothing)
                if what == "bytes":
                    await write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % n)
                    for piece in contract.steps(n if method != "HEAD" else 0):
                        await write(piece)
                elif what == "chunked":
                    await write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                    for piece in contract.steps(n):
                        await chunk(piece)
                    await write(b"0\r\n\r\n")
                elif what == "close":
                    await write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
                    for piece in contract.steps(n):
                        await write(piece)
                    return
                elif what == "events":
                    await write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
                    for i in range(n):
                        await chunk(b"data: %d\n\n" % i)
                        await asyncio.sleep(0.01)
                    await write(b"0\r\n\r\n")
                elif what == "head":
                    text = "".join(l + "\n" for l in [line, *rest]).encode("latin-1")
                    await write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text))
                elif what == "status":
                    length = b"" if n in (204, 304) else b"Content-Length: 0\r\n"
                    await write(b"HTTP/1.1 %d Fine\r\n%b\r\n" % (n, length))
                else:
                    await write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nnot here\n")
            if fields.get("connection", "").lower() == "close":
                return
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main():
    server = await asyncio.start_server(serve, sys.argv[1], int(sys.argv[2]), backlog=4096)
    print("ready", flush=True)
    await server.serve_forever()


asyncio.run(main())
