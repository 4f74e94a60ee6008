"""An HTTP/2 client that does what a test says, also what no client should."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from dataclasses import dataclass, field

from h2.config import H2Configuration
from h2.connection import ConnectionState, H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    InformationalResponseReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)


@dataclass
class Answer:
    """What came on one stream."""

    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    ended: bool = False
    reset: int | None = None
    interim: list[str] = field(default_factory=list)
    trailers: dict[str, str] = field(default_factory=dict)

    @property
    def status(self) -> int:
        return int(self.headers.get(":status", "0"))


class H2Client:
    """One connection. With `hold` no window is opened again by itself."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.reader = reader
        self.writer = writer
        config = H2Configuration(
            header_encoding="latin-1", validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self.h2 = H2Connection(config)
        self.answers: dict[int, Answer] = {}
        self.goaway: int | None = None
        self.hold = False
        self.gone = False

    @classmethod
    async def open(cls, port: int, name: str = "hello.test") -> H2Client:
        context = ssl._create_unverified_context()
        context.set_alpn_protocols(["h2"])
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
        found = writer.get_extra_info("ssl_object").selected_alpn_protocol()
        assert found == "h2", found
        client = cls(reader, writer)
        client.h2.initiate_connection()
        await client.flush()
        return client

    async def __aenter__(self) -> H2Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    async def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())
        with contextlib.suppress(ConnectionError):
            await self.writer.drain()

    async def raw(self, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            self.writer.write(data)
            await self.writer.drain()

    async def ask(
        self,
        target: str = "/",
        method: str = "GET",
        *,
        end: bool = True,
        pseudo: dict[str, str] | None = None,
        more: list[tuple[str, str]] = (),  # type: ignore[assignment]
    ) -> int:
        """Sends a request's head; returns its stream."""
        number = self.h2.get_next_available_stream_id()
        first = {":method": method, ":scheme": "https", ":authority": "hello.test", ":path": target} | (pseudo or {})
        headers = [(name, value) for name, value in first.items() if value != "-"]
        self.h2.send_headers(number, headers + list(more), end_stream=end)
        self.answers[number] = Answer()
        await self.flush()
        return number

    async def _step(self) -> None:
        data = await self.reader.read(65536)
        if not data:
            self.gone = True
            return
        for event in self.h2.receive_data(data):
            match event:
                case ResponseReceived():
                    self.answers[event.stream_id].headers = dict(event.headers)
                case TrailersReceived():
                    self.answers[event.stream_id].trailers = dict(event.headers)
                case InformationalResponseReceived():
                    self.answers[event.stream_id].interim.append(dict(event.headers)[":status"])
                case DataReceived():
                    self.answers[event.stream_id].body += event.data
                    if not self.hold:
                        self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                case StreamEnded():
                    self.answers[event.stream_id].ended = True
                case StreamReset():
                    self.answers.setdefault(event.stream_id, Answer()).reset = event.error_code
                case ConnectionTerminated():
                    self.goaway = event.error_code
                    self.h2.state_machine.state = ConnectionState.CLIENT_OPEN  # what runs is still answered
        await self.flush()

    async def read(self, number: int, timeout_s: float = 30.0) -> Answer:
        """The answer on a stream, when it is whole or reset."""
        answer = self.answers[number]
        async with asyncio.timeout(timeout_s):
            while not (answer.ended or answer.reset is not None or self.gone):
                await self._step()
        return answer

    async def get(self, target: str = "/", **more: str) -> Answer:
        """Asks and reads."""
        pairs = [(name.replace("_", "-"), value) for name, value in more.items()]
        return await self.read(await self.ask(target, more=pairs))

    async def until_gone(self, timeout_s: float = 30.0) -> int | None:
        """The code of the GOAWAY after which the edge has closed the connection."""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(timeout_s):
                while not self.gone:
                    await self._step()
        return self.goaway
