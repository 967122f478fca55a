"""A relay in front of a node's cluster listener: what passes is delayed, in order, by as much as asked."""

import asyncio
import random
import threading

CHUNK_BYTES = 1 << 16


class Relay:
    """Listens on `port` of 127.0.0.1 and passes everything to `target` (host, port).

    `delay_s` is a range from which each piece draws its delay; a piece never overtakes an earlier one.
    """

    def __init__(self, port, target):
        self.port, self.target = port, target
        self.delay_s = (0.0, 0.0)
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self.loop).result(10)

    async def _listen(self):
        self.server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def _accept(self, reader, writer):
        try:
            far_reader, far_writer = await asyncio.open_connection(*self.target)
        except OSError:
            writer.close()
            return
        await asyncio.gather(self._pass(reader, far_writer), self._pass(far_reader, writer))

    async def _pass(self, reader, writer):
        """One direction. Pieces wait in a queue, so that delays overlap as on a long cable."""
        queue = asyncio.Queue(maxsize=1024)

        async def send():
            while (piece := await queue.get()) is not None:
                due, data = piece
                await asyncio.sleep(max(0.0, due - self.loop.time()))
                writer.write(data)
                await writer.drain()

        sending = asyncio.create_task(send())
        try:
            while data := await reader.read(CHUNK_BYTES):
                due = self.loop.time() + random.uniform(*self.delay_s)
                put = asyncio.create_task(queue.put((due, data)))
                await asyncio.wait([put, sending], return_when=asyncio.FIRST_COMPLETED)
                if sending.done():
                    break
            await queue.put(None)
            await sending
        except OSError:
            pass  # the end of one side is the end of the other
        finally:
            sending.cancel()
            writer.close()

    async def _end(self):
        self.server.close()
        passing = asyncio.all_tasks() - {asyncio.current_task()}
        for task in passing:
            task.cancel()
        await asyncio.gather(*passing, return_exceptions=True)

    def close(self):
        asyncio.run_coroutine_threadsafe(self._end(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()
